"""Style sheet of the report: light and dark, from a phone's width upwards, without any outside resource."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c1f24; --quiet: #5a616b; --paper: #f6f7f9; --card: #fff; --line: #dde1e6;
  --yes: #00694c; --no: #a63c00; --link: #005a94; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --quiet: #a3abb6; --paper: #14161a; --card: #1e2127; --line: #343942;
  --yes: #4fd1a5; --no: #ff9b66; --link: #7cc4f5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif;
  overflow-wrap: anywhere; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .2rem 0; }
h2 { font-size: 1.15rem; margin: 0 0 .8rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .5rem; }
h3:first-of-type { margin-top: 0; }
.brand { margin: 0; color: var(--link); font-weight: 600; letter-spacing: .04em; }
.quiet { color: var(--quiet); font-size: .92rem; margin: .4rem 0 0; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .7rem; padding: 1.1rem; margin-top: 1.1rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .9rem; margin: 0; }
.facts dt { color: var(--quiet); font-size: .88rem; }
.facts dd { margin: 0; font-size: 1.3rem; font-weight: 600; }
ul { margin: 0; padding-left: 1.2rem; }
.verdicts { list-style: none; padding: 0; }
.verdicts li { display: flex; gap: .7rem; padding: .35rem 0; }
.verdicts .mark { flex: none; width: 1.2rem; text-align: center; font-weight: 700; color: var(--quiet); }
.yes .mark { color: var(--yes); }
.no .mark { color: var(--no); }
figure { margin: 0 0 1.4rem; }
figure:last-child { margin-bottom: 0; }
img { display: block; max-width: min(100%, 44rem); height: auto; margin-top: .4rem; border-radius: .4rem; background: #fff; }
.sounds { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: 1rem; }
.sounds figure { margin: 0; display: flex; flex-direction: column; justify-content: space-between; }
audio { width: 100%; margin-top: .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .94rem; overflow-wrap: normal; }
th, td { text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--quiet); font-weight: 600; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
pre { background: var(--paper); border: 1px solid var(--line); border-radius: .4rem; padding: .6rem .8rem; margin: .4rem 0 1rem;
  white-space: pre-wrap; font: .86rem/1.45 ui-monospace, Menlo, Consolas, monospace; }
summary { cursor: pointer; color: var(--link); }
details { margin-top: .8rem; }
section > details:only-of-type:nth-child(2) { margin-top: 0; }
"""
