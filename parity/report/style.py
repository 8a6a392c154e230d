"""The look of the page, and the few lines of script that it can do without."""

from __future__ import annotations

CSS = """
:root{color-scheme:light dark;--bg:#fff;--ink:#1c2127;--soft:#59636e;--line:#d5dbe1;--panel:#f6f8fa;--link:#0a58b0;
--pass:#00694b;--pass-bg:#e2f3ec;--fail:#ad3207;--fail-bg:#fdebe3;--warn:#7d5200;--warn-bg:#fcf2d6;--none:#66707b;
--none-bg:#eef1f4;--ours:#0b5fae;--free:#b8500a;--torch:#848e99;--band:#0b5fae1c;--bound:#0b5fae99}
@media (prefers-color-scheme:dark){:root{--bg:#14181d;--ink:#e4e8ec;--soft:#9da7b1;--line:#333b44;--panel:#1b2027;
--link:#79b8ff;--pass:#4fd0a5;--pass-bg:#12332a;--fail:#ff9469;--fail-bg:#3f2015;--warn:#e8bb55;--warn-bg:#382c12;
--none:#939da8;--none-bg:#242a31;--ours:#6cb2f5;--free:#f59a57;--torch:#8b95a0;--band:#6cb2f52b;--bound:#6cb2f5a0}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif;
overflow-wrap:break-word}
main,header,footer,nav{max-width:76rem;margin:0 auto;padding:0 1.25rem}
a{color:var(--link);text-underline-offset:.15em}
a:focus-visible,summary:focus-visible,.scroll:focus-visible,input:focus-visible{outline:2px solid var(--link);
outline-offset:2px;border-radius:4px}
.skip{position:absolute;left:-99rem}.skip:focus{position:static}
h1{font-size:1.9rem;line-height:1.2;margin:.15rem 0 .3rem;letter-spacing:-.01em}
h2{font-size:1.3rem;line-height:1.3;margin:2.6rem 0 .5rem}
h3{font-size:1.05rem;margin:1.6rem 0 .4rem}
h4{font-size:.8rem;font-weight:600;color:var(--soft);margin:0}
p{margin:.35rem 0 .7rem;max-width:70ch}
code{font:.88em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
ol,ul{padding-left:1.25rem;margin:.3rem 0 .7rem}
.soft,.kicker,caption,figcaption{color:var(--soft)}
.kicker{margin:1.5rem 0 0;font-size:.9rem}
.lead{font-size:1.05rem;margin-bottom:.9rem}
.mark{font-weight:700}
.mark.pass,.badge.pass{color:var(--pass)}.mark.fail,.badge.fail{color:var(--fail)}
.mark.warn,.badge.warn{color:var(--warn)}.mark.none,.badge.none{color:var(--none)}
.badge{white-space:nowrap;font-weight:600}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1.3rem;list-style:none;margin:1rem 0 0;padding:.55rem 0;font-size:.92rem;
border-block:1px solid var(--line)}

.finding{border:1px solid var(--line);border-left:5px solid var(--fail);border-radius:6px;background:var(--panel);
padding:.75rem 1.1rem .85rem}
.finding.warn{border-left-color:var(--warn)}
.finding h2{margin:0;font-size:.9rem;color:var(--soft);font-weight:600}
.finding .place{font-size:1.15rem;font-weight:600;margin:.05rem 0 .15rem;max-width:none}
.finding .place code{font-size:1em}
.finding p,.finding ol{margin-bottom:.4rem}
.finding dl{margin:.5rem 0 0}

.facts{display:flex;flex-wrap:wrap;gap:.6rem 2.2rem;margin:1rem 0}
.facts div{min-width:0}
.facts dt{font-size:.8rem;color:var(--soft)}
.facts dd{margin:0;font-variant-numeric:tabular-nums}
.facts.big{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:.9rem 1.6rem}
.facts.big dd{font-size:1.2rem;font-weight:600;line-height:1.35}
.facts.big dd small{font-size:.8rem;font-weight:400;color:var(--soft);display:block;max-width:26rem;line-height:1.35}

.phases{list-style:none;padding:0;margin:.8rem 0 0;display:grid;gap:1.5rem;
grid-template-columns:repeat(auto-fit,minmax(12rem,1fr))}
.phases ol{list-style:none;padding:0;margin:.35rem 0 0;display:grid;gap:.45rem}
.phases>li{position:relative}
.phases>li:not(:first-child)>h4::before{content:"→ ";font-weight:400}
a.stage{display:grid;grid-template-columns:1.5rem 1fr;padding:.4rem .6rem .45rem .5rem;border-radius:6px;
color:var(--ink);text-decoration:none;border:1px solid var(--line);background:var(--panel);line-height:1.35}
a.stage:hover b{text-decoration:underline}
a.stage .mark{grid-row:1/3;font-size:1.1rem}
a.stage b{font-weight:600;overflow-wrap:anywhere}
a.stage small{color:var(--soft);font-size:.8rem;grid-column:2}
a.stage.pass{background:var(--pass-bg);border-color:transparent}
a.stage.fail{background:var(--fail-bg);border-color:var(--fail)}
a.stage.warn{background:var(--warn-bg);border-color:var(--warn)}
a.stage.none{background:none;border-style:dashed}

.scroll{overflow-x:auto;margin:.4rem 0 1rem;max-width:100%;position:relative}
table{border-collapse:collapse;font-size:.86rem;line-height:1.4;min-width:100%}
caption{text-align:left;padding:.2rem 0 .4rem;font-size:.86rem;position:sticky;left:0}
th,td{text-align:left;padding:.32rem .8rem .32rem 0;border-bottom:1px solid var(--line);vertical-align:top}
td:last-child,th:last-child{padding-right:.2rem}
th{font-weight:600;color:var(--soft);white-space:nowrap}
td code{display:inline-block;min-width:13rem}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr.bad td:first-child{box-shadow:inset 3px 0 var(--fail);padding-left:.6rem}
.filter{display:block;margin:.5rem 0;font-size:.86rem;color:var(--soft)}
.filter[hidden]{display:none}
input{font:inherit;color:inherit;background:var(--bg);border:1px solid var(--line);border-radius:5px;
padding:.25rem .5rem;width:16rem;max-width:70vw}

details{border-top:1px solid var(--line)}
details:last-of-type{border-bottom:1px solid var(--line)}
summary{cursor:pointer;padding:.5rem 0;display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;align-items:baseline}
summary::before{content:"▸";color:var(--soft);width:.9rem}
details[open]>summary::before{content:"▾"}
summary::-webkit-details-marker{display:none}
summary b{font-weight:600}
details>div{padding:0 0 .8rem}
.plots{display:grid;gap:1.2rem 2rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));
margin:.5rem 0 1rem}
.located{display:flex;flex-wrap:wrap;gap:1rem 1.6rem;align-items:flex-start;margin:.4rem 0 1.2rem}
figure{margin:0;min-width:0}
figcaption{font-size:.82rem;line-height:1.4;display:flex;flex-wrap:wrap;gap:.05rem .9rem;margin-bottom:.2rem}
figcaption b{font-weight:600;color:var(--ink)}
.key{display:inline-flex;flex-wrap:wrap;gap:.05rem .9rem;align-items:center}
.key svg{flex:none}
.key span{display:inline-flex;gap:.3rem;align-items:center}
.plot>svg{width:100%;height:auto;display:block}
.along{flex:0 1 280px}.along>svg{width:280px;max-width:100%;height:auto;display:block}
.heat img{width:210px;height:210px;image-rendering:pixelated;border:1px solid var(--line);display:block}
.ramp{display:inline-block;width:70px;height:9px;background:linear-gradient(90deg,#440154,#3b528b,#21918c,#5ec962,#fde725)}
.grid{stroke:var(--line);stroke-width:.7;fill:none}
.tick{fill:var(--soft);font:9.5px system-ui,sans-serif}
.line{fill:none;stroke-width:1.5;stroke-linejoin:round}
.ours .line{stroke:var(--ours)}.ours .dot{fill:var(--ours)}
.free .line{stroke:var(--free);stroke-dasharray:5 3}.free .dot{fill:var(--bg);stroke:var(--free);stroke-width:1.3}
.torch .line{stroke:var(--torch);stroke-width:2.4}.torch .dot{fill:var(--torch)}
.known .line{stroke:none}.known .dot{fill:var(--bg);stroke:var(--ink);stroke-width:1.5}
.band{fill:var(--band)}.bound{stroke:var(--bound);fill:none;stroke-width:1.1}
.cross{stroke:var(--fail);stroke-width:2;fill:none}
footer{color:var(--soft);font-size:.86rem;padding-block:2.5rem 3rem}
@media (max-width:640px){body{font-size:15px}main,header,footer,nav{padding-inline:.9rem}
.kicker{margin-top:.8rem}h1{font-size:1.5rem}.lead{margin-bottom:.6rem;font-size:1rem}
.finding{padding:.6rem .8rem}.finding .place{font-size:1.02rem}
.phases{grid-template-columns:1fr;gap:.9rem}.phases ol{grid-template-columns:1fr 1fr}
.phases>li:not(:first-child)>h4::before{content:"↓ "}.facts{gap:.5rem 1.5rem}
.facts.big{grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:.7rem 1rem}.facts.big dd{font-size:1.05rem}
td code{min-width:10rem}}
@media print{:root{color-scheme:light}body{font-size:9.5pt}main,header,footer{max-width:none;padding:0}
nav,.filter,.skip{display:none}.scroll{overflow:visible}table{font-size:7pt}th{white-space:normal}
td code{min-width:0}th,td{padding-right:.4rem}
details::details-content{content-visibility:visible;display:block;block-size:auto}
h2,h3,summary,caption{break-after:avoid}figure,tr,.finding,a.stage{break-inside:avoid}
.plots{grid-template-columns:1fr 1fr;gap:.6rem 1rem}a{color:inherit;text-decoration:none}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""

# Filters tables, opens the part that a link leads to, and opens all parts for printing.
JS = """
for (const label of document.querySelectorAll('.filter')) {
  const rows = label.nextElementSibling.querySelectorAll('tbody tr');
  label.hidden = false;
  label.firstElementChild.addEventListener('input', (event) => {
    const wanted = event.target.value.toLowerCase().split(/\\s+/);
    for (const row of rows) row.hidden = !wanted.every((word) => row.textContent.toLowerCase().includes(word));
  });
}
const reveal = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let part = target; part; part = part.parentElement) if (part.tagName === 'DETAILS') part.open = true;
};
addEventListener('hashchange', reveal);
reveal();
addEventListener('beforeprint', () => { for (const part of document.querySelectorAll('details')) part.open = true; });
"""
