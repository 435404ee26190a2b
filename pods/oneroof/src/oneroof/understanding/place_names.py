"""The words that callers use for parts of Seattle. Which homes lie there is for the search to know."""

import re
from typing import Final

_NAMES: Final = (
    "admiral|alki beach|alki|arbor heights|atlantic|ballard|beacon hill|belltown|bitter lake|blue ridge|broadview|"
    "broadway|bryant|cap hill|capitol hill|cedar park|central area|central district|columbia city|crown hill|delridge|"
    "denny blaine|downtown|eastlake|fauntleroy|first hill|fremont|gatewood|genesee|georgetown|green lake|greenlake|"
    "greenwood|haller lake|hawthorne hills|high point|highland park|hillman city|interbay|international district|"
    "the junction|junction|lake city|lake forest|lakewood|laurelhurst|leschi|licton springs|lower queen anne|"
    "loyal heights|madison park|madison valley|madrona|magnolia|magnuson park|maple leaf|mapleleaf|matthews beach|"
    "meadowbrook|montlake|mount baker|mt baker|north beacon hill|north beach|north seattle|northgate|northlake|"
    "olympic hills|phinney ridge|phinney|pinehurst|pioneer square|portage bay|queen anne|rainier beach|rainier valley|"
    "rainier view|ravenna|roosevelt|roxhill|sand point|seaview|seward park|shoreline|sodo|south lake union|south park|"
    "south seattle|sunset hill|u district|u-district|udistrict|u dist|university district|victory heights|view ridge|"
    "wallingford|wedgwood|wedgewood|west seattle junction|west seattle|westlake|westwood|white center|"
    "whittier heights|windermere|yesler terrace"
)

# Names that take in others: what is denied may lie in them ("West Seattle but not Alki").
WIDE: Final = frozenset({"west seattle", "north seattle", "south seattle", "rainier valley", "seattle"})
NAMES: Final = tuple(sorted(_NAMES.replace("first hill", "1st hill").split("|"), key=len, reverse=True))
PLACE: Final = re.compile(r"\b(?:the )?(" + "|".join(NAMES) + r"|98[01][0-9]{2})\b")
# the words of the names that can be told from plain English by themselves, for the reader of misspelled ones
DISTINCT_WORDS: Final = frozenset(
    word
    for name in NAMES
    for word in re.findall(r"[a-z]{5,}", name)
    if word
    not in {
        "beach", "beacon", "bitter", "central", "center", "columbia", "crown", "district", "forest", "green", "heights",
        "highland", "hills", "international", "junction", "lower", "maple", "mount", "north", "olympic", "point",
        "queen", "ridge", "south", "springs", "square", "sunset", "terrace", "union", "university", "valley", "victory",
        "white", "pioneer", "cedar", "admiral", "atlantic", "broadway", "portage", "capitol", "downtown",
    }
)  # fmt: skip
