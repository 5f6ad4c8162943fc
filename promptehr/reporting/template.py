"""The page's template and style.

They are text in a module, not package data, because a stage's key covers the modules it imports:
an edit here makes the report stale and nothing else.
"""

STYLE = """
:root { --ink: #222; --soft: #5b5b5b; --line: #d5d5d5; --accent: #0b4f7d; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 2.2rem 1.5rem 4rem; color: var(--ink);
  font: 15px/1.5 "Source Sans 3", "Segoe UI", "Helvetica Neue", Arial, "Liberation Sans", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .2rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .5rem; padding-top: .6rem; border-top: 2px solid var(--accent); }
h3 { font-size: 1rem; margin: 1.5rem 0 .3rem; }
p { margin: .4rem 0 .8rem; max-width: 52rem; }
.lead { font-size: 1.08rem; margin-top: .9rem; }
.sub { color: var(--soft); margin: 0; }
nav { margin: 1rem 0 0; font-size: .9rem; } nav a { margin-right: 1rem; white-space: nowrap; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
figure { margin: 1rem 0 1.4rem; } figure img { max-width: 100%; display: block; }
figcaption { color: var(--soft); font-size: .9rem; max-width: 52rem; margin: .4rem 0 .5rem; }
figure.table { margin: 1.5rem 0 1.6rem; } h2 + figure { margin-top: .3rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .92rem; }
th { text-align: left; font-weight: 600; border-bottom: 1.5px solid #888; vertical-align: bottom; }
th, td { padding: .22rem .8rem .22rem 0; } td { border-top: 1px solid #ececec; vertical-align: top; }
tr.more td { border-top: none; }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; padding-left: .6rem; }
th { max-width: 9.5rem; } th.n { min-width: 5.2rem; } td.n { white-space: nowrap; }
tbody tr:last-child td { border-bottom: 1.5px solid #888; }
sup { font-size: .72em; color: var(--soft); margin-left: .15em; }
ol.notes { list-style: lower-alpha; margin: .3rem 0 0; padding-left: 1.4rem; font-size: .85rem;
  color: var(--soft); }
.bad { color: #a03000; font-weight: 600; }
.patients { display: grid; grid-template-columns: 1fr 1fr; gap: .2rem 2.2rem; }
.patient { break-inside: avoid; border-top: 1px solid var(--line); padding: .5rem 0; }
.patient b { font-weight: 600; } .patient ol { margin: .2rem 0 .1rem; padding: 0; list-style: none;
  font-size: .86rem; line-height: 1.35; }
.patient .visit { color: var(--soft); font-size: .82rem; margin-top: .35rem; }
.patient li { display: grid; grid-template-columns: 4.2em 1fr; } .patient code { color: var(--accent); }
code { font: .95em ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
@media (max-width: 760px) { .patients { grid-template-columns: 1fr; } }
@page { size: A4; margin: 12mm; }
@media print { :root { font-size: 11.5px; } nav { display: none; }
  body { font-size: 9.3pt; padding: 0; max-width: none; }
  .wide { overflow: visible; } table { font-size: 7.4pt; } th.n { min-width: 0; }
  th, td { padding: .12rem .45rem .12rem 0; } th.n, td.n { padding-left: .3rem; }
  h2, figcaption { break-after: avoid; } figure, figcaption, tr { break-inside: avoid; }
  figure.table { break-inside: auto; } a { color: inherit; } }
"""

TEMPLATE = """
{%- macro table(view) -%}
<figure class="table">
<figcaption>{{ view.caption }}</figcaption>
<div class="wide"><table>
<thead><tr>
{%- for title in view.head %}<th{% if view.numeric(loop.index0) %} class="n"{% endif %}>{{ title }}</th>
{%- endfor %}</tr></thead>
<tbody>
{% for row in view.rows -%}
<tr{% if not row[0].text %} class="more"{% endif %}>
{%- for cell in row -%}
<td{{ ' class="n"'|safe if cell.numeric }}{{ ' class="bad"'|safe if cell.bad }}>{{ cell.text }}
{%- if cell.note %}<sup>{{ view.mark(cell) }}</sup>{% endif %}</td>{% endfor -%}
</tr>
{% endfor -%}
</tbody></table></div>
{%- if view.notes %}
<ol class="notes">{% for note in view.notes %}<li>{{ note }}</li>{% endfor %}</ol>
{%- endif %}
</figure>
{%- endmacro -%}
{%- macro figure(drawn) -%}
<figure><img src="{{ drawn.source }}" alt="{{ drawn.alt }}">
<figcaption>{{ drawn.caption }}</figcaption></figure>
{%- endmacro -%}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<link rel="icon" href="data:,">
<style>{{ style|safe }}</style>
</head>
<body>
<header>
<h1>{{ title }}</h1>
<p class="sub">{{ subtitle }}</p>
<p class="lead">{{ verdict }}</p>
<nav>{% for section in sections %}<a href="#{{ section.anchor }}">{{ section.title }}</a> {% endfor %}</nav>
</header>
<main>
{% for section in sections %}
<section id="{{ section.anchor }}">
<h2>{{ section.title }}</h2>
{% for paragraph in section.paragraphs %}<p>{{ paragraph }}</p>
{% endfor -%}
{% for view in section.views -%}
{% if view.kind == "figure" %}{{ figure(view) }}{% else %}{{ table(view) }}{% endif %}
{% endfor -%}
{% if section.patients %}<div class="patients">
{% for patient in section.patients -%}
<div class="patient"><b>{{ patient.heading }}</b>
{% for visit in patient.visits -%}
<div class="visit">visit {{ loop.index }}</div>
<ol>{% for entry in visit %}
<li><code>{{ entry.code }}</code><span>{{ entry.title or "(not in the ICD-9-CM list)" }}</span></li>
{%- endfor %}</ol>
{% endfor -%}
</div>
{% endfor %}</div>
{% endif -%}
</section>
{% endfor %}
</main>
</body>
</html>
"""
