"""Building blocks of all models. Of the package, they import only each other and `settings`.

Shape letters, used in every shape comment of the package:

    B batch            D d_model      F d_ff
    T queries, tokens  H heads        V vocab_size
    S keys             G kv heads     P predicted positions
                       K head_dim
"""
