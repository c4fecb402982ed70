"""`python docs/state_diagram.py` updates the state diagram of ARCHITECTURE.md."""

import re
from pathlib import Path

from ims_config.records import TERMINAL, State
from ims_ledger.transitions import TRANSITIONS

PAGE = Path(__file__).parents[1] / "ARCHITECTURE.md"
BLOCK = re.compile(r"(?s)(<!-- state diagram[^\n]*-->\n).*?(<!-- end of state diagram -->)")


def diagram() -> str:
    """The transitions as Mermaid; a transition that every open state allows is drawn once."""
    open_states = [state for state in State if state not in TERMINAL]
    shared = frozenset.intersection(*(TRANSITIONS[state] for state in open_states))
    edges = [
        (state, target)
        for state in State
        for target in State
        if target in TRANSITIONS[state] and (state in TERMINAL or target not in shared)
    ]
    inner = [edge for edge in edges if TERMINAL.isdisjoint(edge)]
    outer = [edge for edge in edges if edge not in inner]
    return "\n".join(
        [
            "```mermaid",
            "stateDiagram-v2",
            "    [*] --> QUEUED",
            "    state open {",
            *(f"        {state} --> {target}" for state, target in inner),
            "    }",
            *(f"    {state} --> {target}" for state, target in outer),
            *(f"    open --> {target}" for target in State if target in shared),
            "```",
        ]
    )


def updated(page: str) -> str:
    """The page with the current diagram between its markers."""
    return BLOCK.sub(lambda block: f"{block[1]}{diagram()}\n{block[2]}", page)


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text()))
