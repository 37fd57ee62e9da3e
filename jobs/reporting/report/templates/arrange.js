"use strict";
{
  const choice = document.getElementById("arrange"), gallery = document.getElementById("gallery");
  const fewest = Number(gallery.dataset.underAHeading);
  const order = (a, b) => (Number(a) - Number(b)) || String(a).localeCompare(String(b));
  const arrange = (by) => {
    const groups = new Map();
    const cards = [...gallery.querySelectorAll("figure")].sort((a, b) => a.dataset.number - b.dataset.number);
    for (const card of cards) {
      const kind = card.dataset[by] ?? "(none)";
      groups.set(kind, [...(groups.get(kind) ?? []), card]);
    }
    const gridOf = (of) => {
      const grid = document.createElement("div");
      grid.className = "grid";
      grid.append(...of);
      return grid;
    };
    const kinds = [...groups.keys()].sort(order);
    if (cards.length < fewest * kinds.length) {
      gallery.replaceChildren(gridOf(kinds.flatMap((kind) => groups.get(kind))));
      return;
    }
    gallery.replaceChildren(...kinds.flatMap((kind) => {
      const heading = document.createElement("h3");
      heading.textContent = `${by} ${kind}`;
      return [heading, gridOf(groups.get(kind))];
    }));
  };
  if (choice) {
    choice.hidden = false;
    choice.addEventListener("change", (event) => arrange(event.target.value));
  }
}
