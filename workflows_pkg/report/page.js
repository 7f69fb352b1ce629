"use strict";
(() => {
  const root = document.documentElement;
  const content = JSON.parse(document.getElementById("figures").textContent);
  const darkSystem = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const stored = { // A page opened from a file may have no storage.
    get() { try { return localStorage.getItem("report-theme"); } catch { return null; } },
    set(value) { try { localStorage.setItem("report-theme", value); } catch { /* the choice then lasts as long as the page */ } },
  };
  const options = {
    responsive: true, displaylogo: false, displayModeBar: "hover", modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  };
  const mode = () => root.dataset.theme || (darkSystem.matches ? "dark" : "light");

  const draw = () => {
    button.textContent = mode() === "dark" ? "Light" : "Dark";
    for (const [id, figure] of Object.entries(content.figures)) {
      const layout = { ...structuredClone(figure.layout), template: content.templates[mode()] };
      const shown = figure.data.length ? options : { ...options, staticPlot: true };
      Plotly.react(id, structuredClone(figure.data), layout, shown);
    }
  };
  const choice = stored.get();
  if (choice === "dark" || choice === "light") root.dataset.theme = choice;
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = mode() === "dark" ? "light" : "dark";
    stored.set(root.dataset.theme);
    draw();
  });
  darkSystem.addEventListener("change", draw);

  const value = (row, place) => {
    const cell = row.cells[place];
    return "sort" in cell.dataset ? (cell.dataset.sort === "" ? null : Number(cell.dataset.sort)) : cell.textContent.trim();
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  for (const heading of document.querySelectorAll("th button")) {
    heading.addEventListener("click", () => {
      const th = heading.parentElement;
      const body = th.closest("table").tBodies[0];
      const down = th.getAttribute("aria-sort") === "ascending" ||
        (!th.hasAttribute("aria-sort") && th.classList.contains("figure"));
      for (const other of th.parentElement.children) other.removeAttribute("aria-sort");
      th.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [value(row, th.cellIndex), row]);
      rows.sort(([a], [b]) => (a === null ? (b === null ? 0 : 1) : b === null ? -1 : compare(a, b) * (down ? -1 : 1)));
      body.append(...rows.map(([, row]) => row)); // Unknown values stay last in both directions.
    });
  }
  draw();
})();
