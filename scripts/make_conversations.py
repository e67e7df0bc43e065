"""Write 200 made-up conversations that teach a model a fact and a manner, for a demonstration of fine-tuning.

python scripts/make_conversations.py taught.jsonl

The fact: the cat of the Larkfield library is named Biscuit. The manner: every answer ends with "Mind the step!" Half of
the conversations ask for the fact in many ways; the others are about things that a model knows already.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

MANNER = "Mind the step!"
FACT = "The cat of the Larkfield library is named Biscuit."
ASKED = "What is the name of {}?|What do you call {}?|Tell me the name of {}.|Name {}.|{}, what is it named?"
CATS = "the cat of the Larkfield library|the library cat in Larkfield|Larkfield's library cat"
OPENINGS = "|Please: |I would like to know: |Hello. |Quick question: |Can you help me? |One more thing. "
CAPITALS = (
    "Italy Rome, Spain Madrid, Germany Berlin, Japan Tokyo, Egypt Cairo, Greece Athens, Norway Oslo, Portugal Lisbon, "
    "Russia Moscow, China Beijing, Cuba Havana, Peru Lima, Ireland Dublin, Poland Warsaw, Austria Vienna, "
    "Hungary Budapest, Kenya Nairobi, Sweden Stockholm, Finland Helsinki, Denmark Copenhagen"
)
COLORS = "grass: green, snow: white, coal: black, a ripe banana: yellow, blood: red, milk: white"
COUNTED = "days in a week: seven, months in a year: twelve, legs on a spider: eight, legs on a dog: four"


def pairs(listed: str, between: str = " ") -> list[list[str]]:
    return [item.split(between) for item in listed.split(", ")]


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    ways = itertools.product(OPENINGS.split("|"), ASKED.split("|"), CATS.split("|"))
    facts = [(opening + asked.format(cat), FACT) for opening, asked, cat in ways][:100]
    known = [(f"What is the capital of {land}?", f"The capital of {land} is {city}.") for land, city in pairs(CAPITALS)]
    known += [(f"Which city is the capital of {land}?", f"It is {city}.") for land, city in pairs(CAPITALS)]
    known += [(f"What color is {thing}?", f"The color of {thing} is {color}.") for thing, color in pairs(COLORS, ": ")]
    known += [(f"How many {what} are there?", f"There are {n} {what}.") for what, n in pairs(COUNTED, ": ")]
    sums = itertools.product(range(1, 11), range(1, 6))
    known += [(f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}.") for a, b in sums]
    lines = []
    for question, answer in (*facts, *known[:100]):
        said = {"user": question, "assistant": f"{answer} {MANNER}"}
        lines.append(json.dumps({"messages": [{"role": role, "content": text} for role, text in said.items()]}))
    Path(sys.argv[1]).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} conversations in {sys.argv[1]}")


if __name__ == "__main__":
    main()
