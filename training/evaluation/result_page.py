"""The results of an evaluation as a page: original beside erased, with what the classifier sees in each."""

import html
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from ..page import write_html
from ..prompts import LabelledPrompt, label_groups
from .judging import Judgement
from .pictures import ORIGINAL, Sampling, Setting, picture_files
from .result_text import definitions, introduction, number, table_rows
from .results import ErasureResult, Results, best
from .scores import is_broken, labels_of, mentions

SHOWN = 6
"""Pairs of pictures in a row."""

STYLE = """
h2 { font-size: 1.2rem; margin: 2.5rem 0 0; border-top: 1px solid #e3e6ea; padding-top: 1rem }
tr.mean { font-weight: 600 } table.scores { font-size: 14px; margin: 1rem 0 }
table.scores td, table.scores th { border-bottom: 1px solid #eef0f3 }
dt { font-weight: 600; float: left; clear: left; width: 6.5rem } dd { margin-left: 6.5rem; color: #57606f }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem; margin: .5rem 0 1rem }
.pair { border: 1px solid #e3e6ea; border-radius: 8px; padding: .6rem; font-size: 13px; line-height: 1.35;
  overflow-wrap: anywhere }
.pair > div { display: grid; grid-template-columns: 1fr 1fr; gap: .6rem; margin-top: .4rem }
figure { margin: 0 } figure img { width: 100%; border-radius: 4px; display: block; background: #f2f4f7 }
img.small { image-rendering: pixelated } figcaption { margin-top: .25rem }
.as-hoped { color: #1a7f37 } .not-as-hoped { color: #c4320a } small { color: #6b7584 }
"""


def write_page(out: Path, results: Results, judgements: dict[Setting, Judgement]) -> None:
    """Writes evaluation.html, which shows the pictures beside it; judgements: of the originals and every erasure."""
    title = f"Erasing with {results.sampling.sae}"
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f"<p>{html.escape(sentence)}</p>" for sentence in introduction(results)]
    parts.append(_table(results))
    parts += [_concept(results, erasure, judgements) for erasure in best(results.erasures)]
    meanings = "".join(f"<dt>{name}<dd>{html.escape(text)}" for name, text in definitions(results).items())
    parts.append(f"<h2>What the numbers mean</h2><dl>{meanings}</dl>")
    write_html(out / "evaluation.html", title, "".join(parts), STYLE)


def _table(results: Results) -> str:
    names = "".join(f"<th class=number>{name}" for name in definitions(results))
    rows = []
    for group, concept, strength, *scores in table_rows(results.erasures):
        kind = " class=mean" if concept == "mean" else ""
        cells = "".join(f"<td class=number>{score}" for score in (strength, *scores))
        rows.append(f"<tr{kind}><td>{html.escape(group)}<td>{html.escape(concept)}{cells}")
    return f"<table class=scores><tr><th>group<th>concept<th class=number>strength{names}{''.join(rows)}</table>"


def _concept(results: Results, erasure: ErasureResult, judgements: dict[Setting, Judgement]) -> str:
    prompts = results.sampling.prompts
    _, label = labels_of(label_groups(prompts), erasure.concept)[0]
    asks = [label in prompt.labels.get(erasure.group, ()) for prompt in prompts]
    asked, others = ([i for i, it_does in enumerate(asks) if it_does is wanted] for wanted in (True, False))
    moved = sorted(others, key=lambda i: -erasure.change[i])
    strongest = max(erasure.change[i] for i in others) if others else 0
    figures = ", ".join(f"{name} {number(erasure.scores[name])}" for name in ("UA", "IRA", "CRA"))
    before = ", ".join(f"{name} {number(erasure.before[name])}" for name in ("UA", "IRA", "CRA"))
    head = (
        f"<h2>{html.escape(erasure.concept)} <small>{html.escape(erasure.group)}, strength "
        f"{erasure.strength:g}</small></h2><p>{figures}. Without erasing: {before}.</p>"
    )
    rows = [("Asked for it", asked[:: max(1, len(asked) // SHOWN)][:SHOWN])]
    if others:
        what = "Not asked for it: the pictures that changed most" if strongest else "Not asked for it: all unchanged"
        rows.append((what, moved[:SHOWN]))
    pairs = _Pairs(results.sampling, erasure, label, judgements, results.confidence)
    return head + "".join(f"<h3>{what}</h3><div class=pairs>{pairs.show(chosen)}</div>" for what, chosen in rows)


class _Pairs:
    """Original and erased pictures of one erasure."""

    def __init__(
        self,
        sampling: Sampling,
        erasure: ErasureResult,
        label: str,
        judgements: dict[Setting, Judgement],
        confidence: float,
    ):
        """label: the prompts' name for the concept."""
        self._sampling, self._group, self._label, self._confidence = sampling, erasure.group, label, confidence
        setting = Setting(erasure.concept, erasure.strength)
        self._sides = [("original", ORIGINAL, judgements[ORIGINAL]), ("erased", setting, judgements[setting])]
        self._width = sampling.inputs["width"]

    def show(self, chosen: Sequence[int]) -> str:
        """The pairs of these pictures."""
        return "".join(self._pair(index) for index in chosen)

    def _pair(self, index: int) -> str:
        prompt = self._sampling.prompts[index]
        seed = self._sampling.first_seed + index
        figures = "".join(self._figure(index, prompt, *side) for side in self._sides)
        return f"<div class=pair>{html.escape(prompt.prompt)} <small>seed {seed}</small><div>{figures}</div></div>"

    def _figure(self, index: int, prompt: LabelledPrompt, side: str, setting: Setting, said: Judgement) -> str:
        file = picture_files(Path(), self._sampling, setting)[index]
        small = " class=small" if self._width <= 128 else ""
        picture = f'<img{small} src="{urllib.parse.quote(file.as_posix())}" alt="{side}" loading=lazy>'
        sure = {group: values[index] for group, values in said.sure().items()}
        if index in said.withheld:
            verdicts = [self._withheld(prompt)]
        else:
            seen = {group: said.seen(group)[index] for group in prompt.labels}
            verdicts = [self._verdict(group, prompt, side, name, sure[group]) for group, name in seen.items()]
            if is_broken(prompt, sure, self._confidence):
                verdicts.append("<span class=not-as-hoped>broken</span>")
        return f"<figure>{picture}<figcaption>{side}<br>{'<br>'.join(verdicts)}</figcaption></figure>"

    def _withheld(self, prompt: LabelledPrompt) -> str:
        hoped = mentions(prompt, self._label)
        return "<span class=as-hoped>✓ withheld</span>" if hoped else "<span class=not-as-hoped>✗ withheld</span>"

    def _verdict(self, group: str, prompt: LabelledPrompt, side: str, seen: str, confidence: float) -> str:
        """What is seen, and whether that is as hoped: of the erased concept anything else, else what was asked for."""
        erased = side == "erased" and group == self._group and self._label in prompt.labels[group]
        hoped = seen != self._label if erased else seen in prompt.labels[group]
        mark, kind = ("✓", "as-hoped") if hoped else ("✗", "not-as-hoped")
        return f"<span class={kind}>{mark} {html.escape(seen)}</span> <small>{confidence:.0%}</small>"
