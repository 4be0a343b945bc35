"""Known licenses of models and corpora, and the license that a model made of them can have.

If a model or corpus is not listed, its license is unknown, and none is claimed. Licenses change: read them again before
you publish.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ..data.corpora import CORPORA
from ..errors import UserError

# As the Hub spells them; all allow anybody to use, change and share, for any purpose.
OPEN = (
    *("mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense"),
    *("cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
)
RESTRICTED = "other"
_MODELS = (
    (r"pocket", "mit"),
    (r"zai-org/GLM-ASR-Nano-2512", "mit"),
    (r"openai/whisper-large-v3-turbo", "mit"),
    (r"openai/whisper-.+", "apache-2.0"),  # from its pages on the Hub; OpenAI's repository says MIT
    (r"Qwen/Qwen3-.+", "apache-2.0"),
    (r"HuggingFaceTB/SmolLM2-.+", "apache-2.0"),
)
_POCKET_SPEECH = ("tiny_audio", "pocket", "speech")  # the folder, wherever the package is


def license_of_model(name: str) -> str | None:
    """Return the license of a model by its id on the Hub; None if it is not known here."""
    return next((license for pattern, license in _MODELS if re.fullmatch(pattern, name)), None)


def license_of_corpus(name: str, origin: str) -> str | None:
    """Return the license of a corpus; None if it is not known here.

    Args:
        name: of the source: a known corpus, `librispeech:dev-clean`, `librispeech#2`, or `librispeech at 0.9x`.
        origin: a path, or `owner/name@commit (split)`.
    """
    if PurePath(origin).parts[-4:-1] == _POCKET_SPEECH:
        return "cc0-1.0"
    hub_id = origin.partition("@")[0]
    named = CORPORA.get(re.split(r"[:#]| at [\d.]+x$", name)[0])
    corpus = next((corpus for corpus in CORPORA.values() if corpus.hub_id == hub_id), named)
    return None if corpus is None else corpus.license


def languages_of(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the languages of the entries of `data.datasets`; none if that of one entry is not known."""
    found: set[str] = set()
    for entry in entries:
        corpus = CORPORA.get(entry["name"])
        known = "en" if corpus is not None or (entry["name"] == "pocket" and entry["path"] is None) else None
        if corpus is not None and corpus.selector == "language":
            known = corpus.configuration
        if (language := entry["language"] or known) is None:
            return []
        found.add(language)
    return sorted(found)


def license_of(provenance: Mapping[str, Any], asked: str | None) -> str:
    """Return the license that the card claims for the whole: an open one only if all parts allow it.

    Args:
        provenance: of the exported folder.
        asked: the publisher's choice; it also applies to parts whose license is not known here.

    Raises:
        UserError: an open license is asked for, and a part forbids it.
    """
    parts = licenses_of_parts(provenance)
    forbidding = [f"{name} ({license})" for name, license in parts.items() if license and license not in OPEN]
    if asked is not None:
        if asked in OPEN and forbidding:
            raise UserError(
                f"license={asked} cannot be claimed: {', '.join(forbidding)} forbids it; leave license out."
            )
        return asked
    if forbidding or None in parts.values():
        return RESTRICTED
    if shared := sorted({license for license in parts.values() if license and "-sa-" in license}):
        return shared[0] if len(shared) == 1 else RESTRICTED
    models = {str(_license(provenance[part])) for part in ("encoder", "decoder")}
    return "mit" if models == {"mit"} else "apache-2.0" if models <= {"mit", "apache-2.0"} else RESTRICTED


def _license(about: Mapping[str, Any]) -> str | None:
    found: str | None = about.get("license", about.get("licence"))  # early exported folders have this spelling
    return found


def licenses_of_parts(provenance: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the license of each part, by its kind and name (`encoder pocket`); None if it is not known."""
    parts = {f"{part} {provenance[part]['name']}": _license(provenance[part]) for part in ("encoder", "decoder")}
    parts |= {f"corpus {name}": _license(about) for name, about in provenance["corpora"].items()}
    if provenance.get("earlier_stage"):
        parts["the corpora of an earlier stage"] = None
    return parts
