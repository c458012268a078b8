(() => {
  "use strict";
  const root = document.documentElement;
  const fault = message => { root.dataset.errors = (root.dataset.errors || "") + message + "\n"; };
  addEventListener("error", e => fault(e.message || String(e.target && e.target.tagName)), true);
  addEventListener("unhandledrejection", e => fault(String(e.reason)));
  const $ = (selector, from = document) => from.querySelector(selector);
  const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
  const make = (tag, props = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), props);
    node.append(...children);
    return node;
  };

  // Tables are sorted by their heads: first in the useful direction, then the other, then as they came.
  for (const table of $$("table.sortable")) {
    const body = table.tBodies[0];
    const given = [...body.rows];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      if ("nosort" in head.dataset) return;
      const button = make("button", { type: "button", className: "sort", title: "Sort" }, ...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const next = { ascending: "descending", descending: null }[head.getAttribute("aria-sort")];
        const order = next === undefined ? "ascending" : next;
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        if (order === null) return body.append(...given);
        head.setAttribute("aria-sort", order);
        const value = row => {
          const cell = row.cells[column];
          if (!("number" in head.dataset)) return cell.textContent.trim();
          return parseFloat(cell.dataset.value ?? cell.textContent);
        };
        const rows = [...given].sort((a, b) => {
          const x = value(a), y = value(b);
          if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
          const by = typeof x === "string" ? x.localeCompare(y) : x - y;
          return order === "ascending" ? by : -by;
        });
        body.append(...rows);
      });
    });
  }

  // The matrix: which modes side by side, which groups, only what differs or is unexpected, rows and columns swapped.
  const matrix = $("#answer table.matrix");
  const tools = $("#tools");
  if (matrix && tools) {
    const scroller = matrix.parentNode;
    const heads = $$("thead th.mode", matrix);
    const groups = $$("tbody", matrix);
    const chosen = new Set(), shown = new Set();
    let differ = false, unexpected = false, swapped = null;
    const count = make("output", { ariaLive: "polite" });
    const toggle = (text, change) => {
      const button = make("button", { type: "button", ariaPressed: "false" }, text);
      button.addEventListener("click", () => {
        const on = button.ariaPressed !== "true";
        button.ariaPressed = String(on);
        change(on);
        draw();
      });
      return button;
    };
    const line = (name, ...buttons) => make("div", { className: "line", role: "group", ariaLabel: name }, make("span", { className: "name" }, name), ...buttons);
    const member = (set, key) => on => on ? set.add(key) : set.delete(key);
    tools.append(
      line("Side by side", ...heads.map((head, i) => toggle(head.dataset.name, member(chosen, i)))),
      line("Groups", ...groups.map((group, i) => toggle(group.dataset.group, member(shown, i)))),
      line("Show", toggle("only differences", on => { differ = on; }), toggle("only unexpected", on => { unexpected = on; }),
        toggle("modes as rows", on => { swap(on); }), count));
    tools.hidden = false;
    const visible = i => chosen.size === 0 || chosen.has(i);
    const draw = () => {
      heads.forEach((head, i) => head.classList.toggle("hide", !visible(i)));
      let features = 0;
      groups.forEach((group, g) => {
        let any = false;
        for (const row of [...group.rows].slice(1)) {
          const cells = [...row.cells].slice(1, 1 + heads.length);
          cells.forEach((cell, i) => cell.classList.toggle("hide", !visible(i)));
          const states = cells.filter((_, i) => visible(i)).map(cell => cell.className.replace(/\b(hide|first)\b/g, "").trim());
          const wanted = (shown.size === 0 || shown.has(g)) && (!differ || new Set(states).size > 1) &&
            (!unexpected || states.some(s => /s-(fail|unable|missing)/.test(s)));
          row.classList.toggle("hide", !wanted);
          if (wanted) { any = true; features++; }
        }
        group.rows[0].cells[0].colSpan = 2 + heads.filter((_, i) => visible(i)).length;
        group.classList.toggle("hide", !any);
      });
      count.value = `${features} features × ${heads.filter((_, i) => visible(i)).length} modes`;
      if (swapped) { swap(true); }
    };
    const swap = on => {
      if (swapped) swapped.remove();
      swapped = null;
      matrix.hidden = on;
      if (!on) return;
      const rows = groups.flatMap(group => [...group.rows].slice(1)).filter(row => !row.classList.contains("hide"));
      const head = make("tr", {}, make("th", { scope: "col" }, "Mode"), ...rows.map(row => {
        const cell = make("th", { scope: "col", className: "mode", title: row.cells[0].title });
        cell.append($("a", row.cells[0]).cloneNode(true));
        return cell;
      }));
      const body = make("tbody");
      heads.forEach((mode, i) => {
        if (!visible(i)) return;
        const name = make("th", { scope: "row" });
        name.append($("a", mode).cloneNode(true));
        body.append(make("tr", {}, name, ...rows.map(row => row.cells[i + 1].cloneNode(true))));
      });
      swapped = make("table", { className: "matrix upright" }, make("thead", {}, head), body);
      $$("tbody td a", swapped).forEach((a, i) => {
        a.ariaLabel = $("a", rows[i % rows.length].cells[0]).textContent + ": " + a.title;
      });
      scroller.append(swapped);
    };
    draw();
  }

  // A cell opens beside the matrix instead of at the end of the page.
  const panel = $("#panel");
  const body = $(".body", panel);
  let from = null;
  const close = () => {
    panel.hidden = true;
    $$(".matrix a.open").forEach(a => a.classList.remove("open"));
    if (from) from.focus({ preventScroll: true });
    from = null;
  };
  const reveal = id => {
    const target = id && document.getElementById(id);
    for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
    return target;
  };
  document.addEventListener("click", e => {
    const link = e.target.closest && e.target.closest('a[href^="#"]');
    if (!link || e.ctrlKey || e.metaKey || e.shiftKey || e.button !== 0) return;
    const id = decodeURIComponent(link.hash.slice(1));
    const article = document.getElementById(id);
    if (!article || article.tagName !== "ARTICLE") {
      if (article) reveal(id);
      if (panel.contains(link)) close();
      return;
    }
    e.preventDefault();
    $$(".matrix a.open").forEach(a => a.classList.remove("open"));
    link.classList.add("open");
    const question = $("summary span", article.closest("details"));
    body.replaceChildren(...[...article.childNodes].map(n => n.cloneNode(true)));
    if (question && $("h5", body)) $("h5", body).after(make("p", { className: "q" }, question.textContent));
    body.append(make("p", { className: "note" }, make("a", { href: "#" + id, textContent: "Where this stands among the other modes" })));
    $("p.note a", body).addEventListener("click", follow => {
      follow.preventDefault();
      follow.stopPropagation();
      close();
      reveal(id);
      location.hash = id;
    });
    body.className = "body " + article.className;
    panel.hidden = false;
    from = link;
    body.focus({ preventScroll: true });
  });
  $(".close", panel).addEventListener("click", close);
  addEventListener("keydown", e => { if (e.key === "Escape" && !panel.hidden) close(); });
  const arrive = () => {
    const target = reveal(decodeURIComponent(location.hash.slice(1)));
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", arrive);
  if (location.hash) arrive();

  // On paper a folded chart or drawing would be lost.
  addEventListener("beforeprint", () => $$(".set, .wiring").forEach(d => { d.open = true; }));

  // The part being read is marked in the navigation.
  const links = new Map($$("nav a").map(a => [a.hash.slice(1), a]));
  if ("IntersectionObserver" in window) {
    const watch = new IntersectionObserver(entries => {
      for (const entry of entries) if (entry.isIntersecting) {
        links.forEach((a, id) => a.classList.toggle("here", id === entry.target.id));
      }
    }, { rootMargin: "-20% 0px -75% 0px" });
    $$("main > section").forEach(s => watch.observe(s));
  }
  root.dataset.ready = "1";
})();
