"""What was found out on this machine, kept in the private cache folder under all that it hangs on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from breastseg_deploy.engines.private import PrivateFolder, cache_place


@dataclass(frozen=True)
class Findings:
    """The place of one finding.

    Attributes:
        kind: what is found out; it begins the file's name, e.g. "cpu-choice".
        hangs_on: all that the finding depends on, by name: where one of these differs, it is another place.
    """

    kind: str
    hangs_on: Mapping[str, str]

    def recall(self) -> dict[str, Any] | None:
        """What was found; None where nothing was, or what is there is damaged.

        Raises:
            MachineError: the cache folder is not known, not this user's alone, or cannot be read.
            OutputError: it cannot be made.
        """
        content = PrivateFolder.open(cache_place()).read(self._name)
        if content is None:
            return None
        try:
            kept = json.loads(content)
            found, hangs_on = kept["found"], kept["hangs_on"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        return found if isinstance(found, dict) and hangs_on == dict(self.hangs_on) else None

    def keep(self, found: Mapping[str, Any]) -> None:
        """Keep what was found.

        Raises:
            MachineError: as `recall`.
            OutputError: it cannot be written.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        kept = {"found": dict(found), "hangs_on": dict(self.hangs_on), "found_at": now}
        PrivateFolder.open(cache_place()).write(self._name, json.dumps(kept, indent=2).encode())

    @property
    def _name(self) -> str:
        words = json.dumps(dict(self.hangs_on), sort_keys=True)
        return f"{self.kind}-{hashlib.sha256(words.encode()).hexdigest()[:32]}.json"
