// The page for trying texts. Texts, labels and errors enter the document as text only, never as markup.
"use strict";

const at = (id) => document.getElementById(id);

function element(kind, style, text) {
  const made = document.createElement(kind);
  made.className = style;
  if (text !== undefined) made.textContent = text;
  return made;
}

// One row per name: the name, a bar for its share of 1, and the share in percent. `even` is marked if given.
function bars(shares, best, even) {
  const rows = [];
  for (const [name, share] of Object.entries(shares)) {
    const style = name === best ? " best" : "";
    const track = element("div", "track");
    const fill = element("div", "fill");
    fill.style.width = `${100 * share}%`;
    track.append(fill);
    if (even !== undefined) {
      const mark = element("div", "even");
      mark.style.left = `${100 * even}%`;
      track.append(mark);
    }
    track.setAttribute("aria-hidden", "true"); // the number next to it has the same content
    rows.push(element("div", `name${style}`, name), track, element("div", `value${style}`, `${(100 * share).toFixed(1)} %`));
  }
  return rows;
}

function show(answer) {
  at("label").textContent = answer.label;
  at("labels").replaceChildren(...bars(answer.probabilities, answer.label));
  const mixers = Object.entries(answer.branches ?? {});
  at("branches").hidden = mixers.length === 0;
  at("mixers").replaceChildren(...mixers.reverse().map(([name, shares]) => { // the outer mixer first
    const block = element("section", "");
    const grid = element("div", "bars");
    grid.append(...bars(shares, undefined, 1 / Object.keys(shares).length));
    block.append(element("h3", "", name), grid);
    return block;
  }));
  at("answer").hidden = false;
  if (answer.note) complain({ error: answer.note });
}

function complain(problem) {
  at("problem").textContent = [problem.error, problem.where, problem.do].filter(Boolean).join(" · ");
  at("problem").hidden = false;
}

async function classify() {
  const row = { text: at("text").value };
  if (at("pair").value) row.text_pair = at("pair").value;
  at("problem").hidden = at("answer").hidden = at("send").disabled = true;
  try {
    const reply = await fetch("classify?branches=true", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(row),
    });
    const found = await reply.json();
    if (reply.ok) show(found);
    else complain(found);
  } catch (error) {
    complain({ error: "no answer from the server", do: "is it still running?" });
  } finally {
    at("send").disabled = false;
  }
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  classify();
});
at("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("form").requestSubmit();
});
at("origin").textContent = location.origin;
fetch("model").then((reply) => reply.json()).then((model) => {
  at("name").textContent = document.title = model.name;
}).catch(() => {});
