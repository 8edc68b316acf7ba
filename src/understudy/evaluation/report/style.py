"""The page's own style and its one small script."""

from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #1d2129; --soft: #59606d; --rule: #e2dfd6; --grid: #e7e4dc;
  --good: #0b6b3a; --good-ground: #e2f3e8; --bad: #a11f1f; --bad-ground: #fbe6e4;
  --open: #5b4a12; --open-ground: #f6eed3; --band: #0b8a4b; --link: #0067a8;
  --arm-start: #6f7684; --arm-teacher: #1d2129;
  --arm-0: #0067a8; --arm-1: #c24a00; --arm-2: #93357a; --arm-3: #00785a; --arm-4: #806600; --arm-5: #555b66;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171c; --card: #1c2027; --ink: #e9e7e1; --soft: #a5abb7; --rule: #323843; --grid: #2c323c;
    --good: #7ddca6; --good-ground: #17362a; --bad: #ff9f97; --bad-ground: #42201f;
    --open: #ecd384; --open-ground: #383119; --band: #4fd08c; --link: #6cbcf5;
    --arm-start: #9aa2b1; --arm-teacher: #e9e7e1;
    --arm-0: #5ab8f5; --arm-1: #ff9a52; --arm-2: #e58fc6;
    --arm-3: #3fc9a0; --arm-4: #dcc04a; --arm-5: #b6bcc7;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  overflow-wrap: break-word;
}
header, main, footer { max-width: 74rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.2rem; }
h1 { font-size: 1rem; font-weight: 600; color: var(--soft); margin: 0 0 .2rem; }
h2 { font-size: 1.3rem; line-height: 1.25; margin: 3rem 0 .5rem; }
h3 { font-size: 1rem; line-height: 1.35; margin: 1.4rem 0 .5rem; }
p, ul, dl { margin: .5rem 0; max-width: 46rem; }
ul { padding-left: 1.2rem; }
li { margin: .2rem 0; }
.soft, small, figcaption p { color: var(--soft); }
small, .small { font-size: .84rem; line-height: 1.4; }
.lead {
  font-size: clamp(1.5rem, 1.1rem + 2vw, 2.25rem); line-height: 1.18; font-weight: 650; margin: 0 0 1rem;
  letter-spacing: -.012em; max-width: 40rem;
}
.verdict { border-left: .3rem solid var(--edge); padding: .1rem 0 .1rem 1rem; }
.verdict p { margin: .3rem 0; max-width: 56rem; }
.verdict p.change { font-size: 1.08rem; }
.good { --edge: var(--good); } .bad { --edge: var(--bad); } .open, .mixed { --edge: var(--open); }
.banner {
  background: var(--open-ground); color: var(--open); border-radius: .4rem; padding: .6rem .9rem;
  max-width: none;
}
a { color: var(--link); }
nav ul {
  list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; margin: 1.4rem 0 0;
  max-width: none;
}
.pairs {
  display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr));
  margin-top: 1rem;
}
.card {
  background: var(--card); border: 1px solid var(--rule); border-radius: .6rem; padding: .9rem 1.1rem;
}
.card h3 { margin-top: 0; }
.card dl { margin: .6rem 0 0; }
.card dt, .chip { font-weight: 600; font-size: .84rem; }
.card dd { margin: 0 0 .6rem; font-size: .92rem; }
.better { color: var(--good); } .worse { color: var(--bad); }
.clips { display: grid; gap: .8rem; grid-template-columns: repeat(var(--arms), minmax(0, 12rem)); }
.clips figure { margin: 0; }
.clips figcaption { font-size: .9rem; font-weight: 600; margin-bottom: .3rem; }
.clips img { display: block; width: 100%; height: auto; border-radius: .35rem; background: var(--rule); }
.clips img + img, .clips .none + .none, .clips img + .none { margin-top: .5rem; }
.none {
  display: grid; place-items: center; aspect-ratio: 1; border: 1px dashed var(--soft);
  border-radius: .35rem; color: var(--soft); font-size: .84rem; text-align: center; padding: .5rem;
  margin: 0;
}
.dot {
  display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .4em;
  background: var(--arm);
}
.wide {
  overflow-x: auto; margin: 1rem 0; border: 1px solid var(--rule); border-radius: .6rem;
  background: var(--card);
}
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .65rem; text-align: left; vertical-align: top; font-weight: 400; }
thead th { font-weight: 600; border-bottom: 1px solid var(--rule); vertical-align: bottom; }
tbody tr + tr > * { border-top: 1px solid var(--rule); }
tbody th.group {
  font-weight: 600; padding-top: 1.2rem; color: var(--soft); font-size: .84rem;
  text-transform: uppercase; letter-spacing: .05em;
}
tbody + tbody th.group { border-top: 1px solid var(--rule); }
.metrics th[scope=row] { width: 30rem; min-width: 14rem; }
.unit { white-space: nowrap; }
.duels { list-style: none; padding: 0; font-size: .92rem; }
.duels li {
  display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem;
  border-top: 1px solid var(--rule); padding: .25rem 0; margin: 0;
}
.card .chip { margin: .9rem 0 .3rem; }
.card details { margin: .7rem 0 0; } .card summary { font-size: .84rem; }
.metrics th[scope=row] b { font-weight: 600; }
.metrics td { white-space: nowrap; }
.metrics tr > :first-child { padding-left: 1rem; }
.metrics td > b { font-weight: 600; display: block; }
.metrics small { display: block; }
.metrics td.strip svg { display: block; width: 7.5rem; height: auto; }
.fit {
  width: fit-content; max-width: 100%; } .plain { width: auto;
  } .plain td, .plain th { padding: .3rem .9rem;
}
.curves {
  display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr));
}
.curves figure {
  margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: .6rem;
  padding: .8rem .9rem .5rem; display: flex; flex-direction: column;
}
.curves figcaption { order: -1; margin-bottom: .4rem; }
.curves figcaption b { font-weight: 600; }
.curves figcaption p { margin: .1rem 0 0; font-size: .84rem; line-height: 1.4; }
.curves svg { width: 100%; height: auto; display: block; margin-top: auto; }
.legend {
  list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.3rem; padding: 0; max-width: none;
}
.legend svg { width: 2.6rem; height: .7rem; margin-right: .45rem; vertical-align: middle; }
details { margin: 1rem 0; }
summary { cursor: pointer; font-weight: 600; }
pre {
  overflow-x: auto; background: var(--card); border: 1px solid var(--rule); border-radius: .6rem;
  padding: .9rem 1.1rem; font-size: .84rem; line-height: 1.45;
}
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; }
dl.facts dt { color: var(--soft); } dl.facts dd { margin: 0; }
button {
  font: inherit; font-size: .9rem; color: var(--ink); background: var(--card);
  border: 1px solid var(--soft); border-radius: .4rem; padding: .25rem .9rem;
  margin: .3rem .5rem .6rem 0; cursor: pointer;
}
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
footer { color: var(--soft); font-size: .84rem; padding-top: 2rem; padding-bottom: 2.5rem; }
@media (max-width: 40rem) {
  header, main, footer { padding-left: .9rem; padding-right: .9rem; }
  .clips { grid-template-columns: repeat(auto-fill, minmax(30%, 1fr)); gap: .5rem; }
  .clips figcaption { font-size: .82rem; }
  .metrics, .metrics thead, .metrics tbody { display: block; }
  .metrics thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
  .metrics tr { display: grid; grid-template-columns: repeat(3, 1fr); padding: .5rem 0; }
  .metrics tbody tr + tr { border-top: 1px solid var(--rule); }
  .metrics tbody tr > *, .metrics tbody tr + tr > * { border: 0; padding: .2rem .9rem; }
  .metrics th, .metrics th[scope=row], .metrics td.strip { grid-column: 1 / -1; width: auto; }
  .metrics td[data-arm]::before {
    content: attr(data-arm); color: var(--arm); font-size: .8rem; font-weight: 600; display: block;
  }
  .metrics td[data-arm] { white-space: normal; padding: .2rem 0 .2rem .9rem; }
  .metrics small { font-size: .78rem; }
  .metrics td.strip svg { width: 100%; max-width: 13rem; }
  th, td { padding: .45rem .6rem; }
  dl.facts { grid-template-columns: 1fr; } dl.facts dd { margin-bottom: .4rem; }
}
@media print { .wide { overflow: visible; } button { display: none; } }
"""

# A canvas shows an animation's first picture: that is what a paused clip falls back to. Without the script the clips
# simply loop, each from when its browser has decoded it.
SCRIPT: Final = """
(function () {
  var images = Array.prototype.slice.call(document.querySelectorAll(".clips img"));
  var place = document.getElementById("playback");
  if (!images.length || !place) return;
  var moving = images.map(function (image) { return image.src; });
  var still = [];
  var paused = false;
  function restart() {
    images.forEach(function (image) { image.removeAttribute("src"); });
    requestAnimationFrame(function () {
      images.forEach(function (image, n) { image.src = moving[n]; });
    });
  }
  function pause() {
    images.forEach(function (image, n) {
      if (!still[n]) {
        var canvas = document.createElement("canvas");
        canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
        canvas.getContext("2d").drawImage(image, 0, 0);
        still[n] = canvas.toDataURL();
      }
      image.src = still[n];
    });
  }
  function button(text, action) {
    var made = document.createElement("button");
    made.type = "button"; made.textContent = text; made.addEventListener("click", action);
    place.appendChild(made);
    return made;
  }
  var toggle = button("Pause", function () {
    paused = !paused;
    toggle.textContent = paused ? "Play" : "Pause";
    if (paused) pause(); else restart();
  });
  button("Restart together", function () {
    paused = false; toggle.textContent = "Pause"; restart();
  });
  window.addEventListener("load", function () {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) toggle.click(); else restart();
  });
})();
"""
