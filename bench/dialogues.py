"""How many of OneRoof's dialogues its offline rules understand, and how many they get wrong.

Run ``python bench/dialogues.py``. There are three sets. The 60 were written before the rules. ``dialogues_later`` was
written after them; as first measured 4 of its 26 went wrong and 21 were understood, and the rules were then changed.
``dialogues_last`` was written after that, and the rules were not changed for it. ``--show`` prints the dialogues that
were not understood. Exits with 1 if a dialogue went wrong.
"""

import argparse
import sys

from oneroof.dialogues import SETS, Result, count, load, play_all


def main() -> int:
    parser = argparse.ArgumentParser(description="Score OneRoof's understanding on its dialogues.")
    parser.add_argument("--show", action="store_true", help="print the dialogues that were not understood")
    show = parser.parse_args().show
    wrong = 0
    for name in SETS:
        results = play_all(load(name))
        wrong += count(results, "wrong")
        print(
            f"{name}: {len(results)} dialogues, {count(results, 'wrong')} wrong, "
            f"{count(results, 'understood')} understood, {count(results, 'asked')} ended in a question"
        )
        for result in results if show else ():
            if result.verdict != "understood":
                _print(result)
    return 1 if wrong else 0


def _print(result: Result) -> None:
    print(f"\n{result.verdict}: {result.dialogue.id} {result.dialogue.title}")
    for line in result.lines:
        print(f"  {line.who:7} {line.text}")
    print(f"  done    {result.done}")
    print(f"  wanted  {result.dialogue.wants} asks={result.dialogue.asks} says={result.dialogue.says}")


if __name__ == "__main__":
    sys.exit(main())
