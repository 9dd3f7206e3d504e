// Draws the figures of the page in its own colours, again whenever light, dark or the width changes.
"use strict";
(() => {
  const root = document.documentElement;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const narrow = matchMedia("(max-width: 560px)");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const config = { displayModeBar: false, responsive: true, scrollZoom: false, showTips: false };

  addEventListener("error", (event) => { root.dataset.error = event.message; });
  addEventListener("unhandledrejection", (event) => { root.dataset.error = String(event.reason); });

  // A custom property holds light-dark(...); only a real element knows which of the two counts.
  const probe = document.createElement("i");
  probe.hidden = true;
  document.body.append(probe);
  const colour = (name) => {
    probe.style.color = "";
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };

  const coloured = (value, known) => {
    if (typeof value === "string") {
      const name = /^@([a-z0-9-]+)$/.exec(value);
      if (!name) return value;
      return (known[name[1]] ??= colour(name[1]));
    }
    if (Array.isArray(value)) return value.map((item) => coloured(item, known));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, known)]));
  };

  const change = (layout, path, value) => {
    const keys = path.split(".");
    const last = keys.pop();
    keys.reduce((part, key) => (part[key] ??= {}), layout)[last] = value;
  };

  const draw = async () => {
    const known = {};
    let drawn = 0;
    for (const [name, figure] of Object.entries(figures)) {
      const node = document.getElementById(`plot-${name}`);
      try {
        const layout = coloured(figure.layout, known);
        if (narrow.matches) {
          if (layout.xaxis.type === "date") change(layout, "xaxis.nticks", 6);
          for (const [path, value] of Object.entries(figure.narrow)) change(layout, path, value);
        }
        node.style.minHeight = `${layout.height}px`;
        await Plotly.react(node, coloured(figure.data, known), layout, config);
        drawn += 1;
      } catch (error) {
        root.dataset.error = `${name}: ${error}`;
        const words = document.createElement("p");
        words.className = "failed";
        words.textContent = `This plot could not be drawn: ${error}`;
        node.replaceChildren(words);
      }
    }
    root.dataset.drawn = String(drawn);
  };

  document.getElementById("theme").addEventListener("click", () => {
    const now = getComputedStyle(root).colorScheme;
    const isDark = now === "dark" || (now !== "light" && dark.matches);
    root.style.colorScheme = isDark ? "light" : "dark";
    draw();
  });
  dark.addEventListener("change", draw);
  narrow.addEventListener("change", draw);
  draw();
})();
