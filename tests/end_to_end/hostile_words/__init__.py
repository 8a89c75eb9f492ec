"""The corpus of hostile words and results, and what it takes to call something harmless."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Union

CORPUS: Dict[str, Any] = json.loads((Path(__file__).parent / "corpus.json").read_text())


class Word(NamedTuple):
    """Something that an agent, a file or a command line may say."""

    name: str
    #: terminal, invisible, as-is, markup, formula, shell, format, long or bytes.
    kind: str
    data: bytes
    meaning: str

    @property
    def text(self) -> str:
        """As Python has it from the system: bytes that aren't UTF-8 are lone surrogates."""
        return self.data.decode("utf-8", "surrogateescape")


class Pickle(NamedTuple):
    """What a hostile agent may send as its result."""

    name: str
    data: bytes
    #: Under plain pickle it makes the file `executed`: always, never, or with this library.
    executes: Union[bool, str]
    #: It is taken, and `str()` of it must be harmless.
    shown: bool
    #: It must end soon and small; "loads" when it may be taken.
    bomb: Union[bool, str]


def _word(entry: Dict[str, Any]) -> Word:
    data = bytes.fromhex(entry["hex"]) if "hex" in entry else entry["text"].encode() * entry.get("times", 1)
    return Word(entry["name"], entry["kind"], data, entry["meaning"])


def _pickle(entry: Dict[str, Any]) -> Pickle:
    text = entry["bytes"] + "".join(part * times for part, times in entry.get("parts", ()))
    return Pickle(
        entry["name"], text.encode("latin-1"), entry["executes"], entry.get("shown", False), entry.get("bomb", False)
    )


WORDS: List[Word] = [_word(e) for e in CORPUS["words"]]
PICKLES: List[Pickle] = [_pickle(e) for e in CORPUS["pickles"]]


def words(*kinds: str, but: Iterable[str] = ()) -> List[Word]:
    """Those of some kinds, or all that aren't long."""
    left_out = set(but)
    return [
        w for w in WORDS if (w.kind in kinds if kinds else w.kind != "long") and w.kind not in left_out
    ]  # fmt: skip


def bouquet(words: Iterable[Word], between: str = " ") -> str:
    """Many in one, without NUL: as an argument of a program."""
    return between.join(w.text for w in words).replace("\0", "")


#: The property Default_Ignorable_Code_Point, as Unicode's DerivedCoreProperties.txt lists it; written out once more here,
#: so that a hole in the program's own list shows.
IGNORABLE = re.compile(
    "[\u00ad\u034f\u061c\u115f-\u1160\u17b4-\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def hostile_in(text: str, allowed: str = "\n") -> Optional[str]:
    """The first thing in a text that isn't harmless to look at, with what is around it; None when there is none."""
    for i, c in enumerate(text):
        if c in allowed or " " <= c <= "~":
            continue
        if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs") or IGNORABLE.match(c):
            return f"{c!r} at {i} in ...{text[max(0, i - 60) : i + 40]!r}..."
    return None


def assert_harmless(where: str, shown: Union[str, bytes], allowed: str = "\n") -> str:
    """Fails, naming the place, unless a text is harmless; bytes must be UTF-8 too."""
    if isinstance(shown, bytes):
        try:
            shown = shown.decode()
        except UnicodeDecodeError as e:
            raise AssertionError(f"{where}: not UTF-8: {e}; {shown[max(0, e.start - 60) : e.end + 40]!r}") from None
    found = hostile_in(shown, allowed)
    assert found is None, f"{where}: {found}"
    return shown
