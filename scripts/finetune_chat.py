"""Fine-tune a GPT on conversations and talk to it, from Python. Copy this file and change it.

python scripts/finetune_chat.py runs/mine conversations.jsonl --out runs/chat --ask "Who are you?"
"""

from __future__ import annotations

import argparse
from pathlib import Path

import minillm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run that provides the weights, trained here or imported")
    parser.add_argument("data", help="conversations, in one of the shapes that docs/fine-tuning.md lists")
    parser.add_argument("--out", type=Path, help="run folder; a new one under runs/ if left out")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--rank", type=int, default=0, help="train a LoRA adapter of this rank; 0: all weights")
    parser.add_argument("--ask", nargs="*", default=["Who are you?"], help="messages to send afterwards")
    args = parser.parse_args()

    settings: dict[str, object] = {"data.source": args.data, "train.steps": args.steps, "optim.lr": args.lr}
    settings["eval.every"] = max(1, args.steps // 4)
    if args.rank:
        settings |= {"adapter.name": "lora", "adapter.rank": args.rank}
    config = minillm.finetune_config(args.run, settings, config="finetune-chat")
    run = minillm.train(config, args.out, init_from=args.run)

    loaded = minillm.load_run(run)
    evaluation = minillm.evaluate(loaded)
    print(f"assistant turns: {evaluation.describe()}")
    assistant = minillm.Assistant(loaded.decoder, loaded.tokenizer, loaded.config.sample)
    for message in args.ask:
        print(f"> {message}")
        for piece in assistant.reply(message):
            print(piece, end="", flush=True)
        print()


if __name__ == "__main__":
    main()
