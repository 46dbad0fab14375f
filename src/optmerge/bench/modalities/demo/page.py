"""The story as one HTML file that needs nothing else: no network, no script; light or dark, wide or small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from shlex import quote

from PIL import Image

from optmerge.bench.modalities import exam
from optmerge.bench.modalities.demo.clip_files import NAMES as FILES
from optmerge.bench.modalities.demo.clip_files import animation, data_uri, png, wav
from optmerge.bench.modalities.demo.story import Exchange, Speaker, Story
from optmerge.bench.modalities.demo.timeline import swatch, timeline
from optmerge.bench.modalities.describe import NAMES
from optmerge.bench.modalities.world import QUARTERS, Modality, Thing
from optmerge.errors import printable


def html(story: Story) -> str:
    """The page."""
    style = Path(__file__).with_name("page.css").read_text("utf-8")
    parts = (
        _header(story),
        _clip(story),
        "<section>\n<h2>What happens when</h2>\n" + timeline(story.content, story.clip) + "</section>\n",
        _questions(story),
        _footer(story),
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'">
<title>Three experts, one model</title>
<style>
{style}</style>
</head>
<body>
{"".join(parts)}</body>
</html>
"""


def _header(story: Story) -> str:
    scale = "" if story.scale is None else f", scale {story.scale:g}"
    tally = "".join(
        f'<li class="{_kind(speaker)}"><b>{right} of {len(story.exchanges)}</b> {escape(speaker.name)}</li>'
        for speaker, right in zip(story.speakers, story.right, strict=True)
    )
    return f"""<header>
<h1>Three experts, one model</h1>
<p>Three small models grew out of the same language model, each alone: one learnt to <b>listen</b>, one to
<b>watch</b>, one to <b>look</b>. For this page <code>optmerge omni compose</code> has made one model of them,
in {story.seconds:.1f} s and without any training data: what they changed in the language model was merged by
<b>{escape(story.method)}</b>{scale}; the towers through which they hear and see were taken as they are.</p>
<p>All four are asked about the same clip, number {story.number} of the test, which none has met in training.
An expert is given the one part it can take, the merged model all three. Who lacks a part that a question
needs can only guess.</p>
<h2 class="small">Right answers</h2>
<ul class="tally">{tally}</ul>
<p class="note">A handful of questions shows how it works, not how well: <code>optmerge omni run</code> asks
thousands.</p>
</header>
"""


def _clip(story: Story) -> str:
    clip = story.clip
    still = data_uri("image/png", png(Image.fromarray(clip.frames[0])))
    playing = data_uri("image/png", animation(clip.frames))
    picture = data_uri("image/png", png(clip.picture))
    things = zip(QUARTERS, story.content.picture, strict=True)
    return f"""<section>
<h2>The clip</h2>
<div class="clip">
<figure><figcaption>{_pill("video")} two seconds, again and again</figcaption>
<picture><source media="(prefers-reduced-motion: reduce)" srcset="{still}">
<img class="sight" src="{playing}" alt="the video"></picture></figure>
<figure><figcaption>{_pill("image")} the same cast once more</figcaption>
<img class="sight" src="{picture}" alt="the picture"></figure>
<div><figure><figcaption>{_pill("audio")} begins with the video</figcaption>
<audio controls src="{data_uri("audio/wav", wav(clip.waveform))}"></audio></figure>
<p>Video and picture show the same shapes and the same colours, paired anew. Every shape has a voice of its
own, and not every one sounds. The picture shows:</p>
<ul class="things">{"".join(_thing(place, thing) for place, thing in things)}</ul></div>
</div>
</section>
"""


def _thing(place: str, thing: Thing) -> str:
    size = "big" if thing.big else "small"
    words = f"{size} {thing.colour} {thing.kind}, number {thing.number}"
    return f"<li><b>{place}</b> {swatch(thing.colour)} {words}</li>"


def _questions(story: Story) -> str:
    asked = "".join(_question(each, story.speakers) for each in story.exchanges)
    return f"<section>\n<h2>What is asked, and who says what</h2>\n{asked}</section>\n"


def _question(exchange: Exchange, speakers: Sequence[Speaker]) -> str:
    question = exchange.question
    cells = "".join(_cells(exchange, speakers))
    return f"""<article>
<p>{" ".join(map(_pill, question.needs))} <span class="family">{question.family}</span></p>
<h3>{escape(question.text)}</h3>
<dl>
<div class="truth"><dt>the truth</dt><dd>{_answer(question.worked.answers[0])}</dd></div>
{cells}</dl>
</article>
"""


def _cells(exchange: Exchange, speakers: Sequence[Speaker]) -> Iterator[str]:
    for speaker, said, right in zip(speakers, exchange.said, exchange.right, strict=True):
        mark, word = ("✓", "right") if right else ("✗", "wrong")
        lacking = [NAMES[each] for each in exchange.question.needs if each not in speaker.takes]
        guess = f"<small>a guess: {', '.join(f'no {each}' for each in lacking)}</small>" if lacking else ""
        verdict = f'<span class="mark">{mark}<span class="unseen"> {word}:</span></span>'
        yield f"""<div class="{word} {_kind(speaker)}"><dt>{escape(speaker.name)}</dt>
<dd>{verdict} {_answer(said)}{guess}</dd></div>
"""


def _answer(said: str) -> str:
    """An answer, and the steps that were said before it."""
    steps, answer = exam.worked(printable(said))
    return (escape(answer) or "–") + (f"<small>{escape(steps)}</small>" if steps else "")


def _kind(speaker: Speaker) -> str:
    return "merged" if len(speaker.takes) > 1 else "expert"


def _pill(modality: Modality) -> str:
    return f'<span class="pill {modality}">{NAMES[modality]}</span>'


def _footer(story: Story) -> str:
    items = " ".join(f"--{modality} {name}" for modality, name in FILES.items())
    question = quote(story.exchanges[-1].question.text)
    weights = "".join(_fact(name, digest) for name, digest in story.weights.items())
    versions = "".join(_fact(name, version) for name, version in story.versions.items())
    return f"""<footer>
<h2 class="small">Ask it yourself, in the folder of this page</h2>
<pre>optmerge omni ask {escape(story.merged)} {items} \\
  {escape(question)}</pre>
<h2 class="small">SHA-256 of the weights</h2>
<dl class="facts">{weights}</dl>
<h2 class="small">Versions</h2>
<dl class="facts">{versions}</dl>
</footer>
"""


def _fact(name: str, value: str) -> str:
    return f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
