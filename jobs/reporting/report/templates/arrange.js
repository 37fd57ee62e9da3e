"use strict";
{
  const choice = document.getElementById("arrange"), gallery = document.getElementById("gallery");
  const order = (a, b) => (Number(a) - Number(b)) || String(a).localeCompare(String(b));
  const arrange = (by) => {
    const groups = new Map();
    const cards = [...gallery.querySelectorAll("figure")].sort((a, b) => a.dataset.number - b.dataset.number);
    for (const card of cards) {
      const kind = card.dataset[by] ?? "(none)";
      groups.set(kind, [...(groups.get(kind) ?? []), card]);
    }
    gallery.replaceChildren(...[...groups.keys()].sort(order).flatMap((kind) => {
      const heading = document.createElement("h3"), grid = document.createElement("div");
      heading.textContent = `${by} ${kind}`;
      grid.className = "grid";
      grid.append(...groups.get(kind));
      return [heading, grid];
    }));
  };
  if (choice) {
    choice.hidden = false;
    choice.addEventListener("change", (event) => arrange(event.target.value));
  }
}
