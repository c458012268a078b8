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

  // The matrix: what is looked for, which modes and groups, in which order, only what differs or is unexpected, rows and
  // columns swapped. The address keeps such a view after "#view?", so that it can be sent to somebody.
  const matrix = $("#answer table.matrix");
  const tools = $("#tools");
  let recall = () => false;
  if (matrix && tools) {
    const scroller = matrix.parentNode;
    const heads = $$("thead th.mode", matrix);
    const modes = heads.map(head => head.dataset.mode);
    const groups = $$("tbody", matrix);
    const rowsOf = group => [...group.rows].slice(1);
    const cells = new Map(groups.flatMap(rowsOf).map(row => [row, [...row.cells].slice(1, 1 + heads.length)]));
    const state = cell => cell.className.replace(/\b(hide|first|pinned)\b/g, "").trim();
    const view = { modes: new Set(), groups: new Set(), folded: new Set(), find: "", order: "", pin: "", differ: false, unexpected: false, rows: false };
    const presses = [];
    let swapped = null, shuffled = "";
    const count = make("output", { ariaLive: "polite" });
    const toggle = (text, on, change) => {
      const button = make("button", { type: "button" }, text);
      presses.push(() => { button.ariaPressed = String(on()); });
      button.addEventListener("click", () => { change(!on()); draw(); });
      return button;
    };
    const member = (set, text, keys) => toggle(text, () => keys.every(key => set.has(key)),
      on => keys.forEach(key => on ? set.add(key) : set.delete(key)));
    const option = key => toggle({ differ: "only differences", unexpected: "only unexpected", rows: "modes as rows" }[key], () => view[key], on => { view[key] = on; });
    const choice = (name, key, options) => {
      const select = make("select", {}, ...options.map(([value, text]) => make("option", { value, textContent: text })));
      presses.push(() => { select.value = view[key]; });
      select.addEventListener("change", () => { view[key] = select.value; draw(); });
      return make("label", {}, name + " ", select);
    };
    const line = (name, ...parts) => make("div", { className: "line", role: "group", ariaLabel: name }, make("span", { className: "name" }, name), ...parts);
    const find = make("input", { type: "search", placeholder: "a feature, or a word of its question", ariaLabel: "Find features" });
    find.addEventListener("input", () => { view.find = find.value; draw(); });
    presses.push(() => { if (find.value !== view.find) find.value = view.find; });
    const family = mode => mode.split("-")[0];
    const families = [...new Set(modes.map(family))].map(name => [name, modes.filter(mode => family(mode) === name)]).filter(([, of]) => of.length > 1);
    tools.append(
      line("Side by side", ...heads.map((head, i) => member(view.modes, head.dataset.name, [modes[i]]))),
      ...(families.length ? [line("Families", ...families.map(([name, of]) => member(view.modes, name + "…", of)))] : []),
      line("Groups", ...groups.map(group => member(view.groups, group.dataset.group, [group.dataset.group]))),
      line("Modes", choice("in order", "order", [["", "as run"], ["name", "by name"], ["works", "most works first"], ["like", "most like the pinned"]]),
        choice("pinned", "pin", [["", "none"], ...heads.map((head, i) => [modes[i], head.dataset.name])])),
      line("Show", find, option("differ"), option("unexpected"), option("rows"), count));
    tools.hidden = false;
    for (const group of groups) {
      const head = group.rows[0].cells[0], key = group.dataset.group;
      const button = make("button", { type: "button", className: "fold", title: "Fold or unfold" }, ...head.childNodes);
      presses.push(() => { button.ariaExpanded = String(!view.folded.has(key)); });
      button.addEventListener("click", () => { if (!view.folded.delete(key)) view.folded.add(key); draw(); });
      head.append(button);
    }
    const visible = i => view.modes.size === 0 || view.modes.has(modes[i]) || modes[i] === view.pin;
    const columns = () => {
      const pinned = modes.indexOf(view.pin), all = heads.map((_, i) => i);
      const weight = view.order === "works" ? i => [...cells.values()].filter(of => of[i].classList.contains("s-works")).length :
        view.order === "like" && pinned >= 0 ? i => [...cells.values()].filter(of => state(of[i]) === state(of[pinned])).length : () => 0;
      const weights = all.map(weight);
      if (view.order === "name") all.sort((a, b) => heads[a].dataset.name.localeCompare(heads[b].dataset.name));
      else all.sort((a, b) => weights[b] - weights[a]);
      return pinned < 0 ? all : [pinned, ...all.filter(i => i !== pinned)];
    };
    const place = order => {
      if (String(order) === shuffled) return;
      shuffled = String(order);
      matrix.classList.toggle("ordered", order.some((column, i) => column !== i));
      const headed = heads[0].parentNode;
      headed.append(...order.map(i => heads[i]), $(".doc", headed));
      cells.forEach((of, row) => row.append(...order.map(i => of[i]), $(".doc", row)));
    };
    const keep = () => {
      const at = new URLSearchParams();
      for (const [key, value] of Object.entries(view)) {
        const text = value instanceof Set ? [...value].join(",") : value === true ? "yes" : value;
        if (text) at.set(key, text);
      }
      if (String(at)) history.replaceState(null, "", "#view?" + at);
      else if (location.hash.startsWith("#view?")) history.replaceState(null, "", "#matrix");
    };
    const draw = (silent) => {
      const order = columns();
      place(order);
      const words = view.find.toLowerCase().split(/\s+/).filter(Boolean);
      heads.forEach((head, i) => {
        for (const cell of [head, ...[...cells.values()].map(of => of[i])]) {
          cell.classList.toggle("hide", !visible(i));
          cell.classList.toggle("pinned", modes[i] === view.pin);
        }
      });
      let features = 0;
      for (const group of groups) {
        const key = group.dataset.group;
        let any = false;
        for (const row of rowsOf(group)) {
          const states = cells.get(row).filter((_, i) => visible(i)).map(state);
          const text = (row.cells[0].textContent + " " + row.cells[0].title).toLowerCase();
          const wanted = (view.groups.size === 0 || view.groups.has(key)) && words.every(word => text.includes(word)) &&
            (!view.differ || new Set(states).size > 1) && (!view.unexpected || states.some(s => /s-(fail|unable|missing)/.test(s)));
          row.classList.toggle("hide", !wanted);
          row.classList.toggle("folded", view.folded.has(key));
          if (wanted) { any = true; features++; }
        }
        group.rows[0].cells[0].colSpan = 2 + heads.filter((_, i) => visible(i)).length;
        group.classList.toggle("hide", !any);
      }
      count.value = `${features} features × ${heads.filter((_, i) => visible(i)).length} modes`;
      for (const press of presses) press();
      swap(order);
      matrix.style.setProperty("--pinned", matrix.rows[0].cells[0].offsetWidth + "px");
      if (silent !== true) keep();
    };
    const swap = order => {
      if (swapped) swapped.remove();
      swapped = null;
      matrix.hidden = view.rows;
      if (!view.rows) return;
      const rows = groups.flatMap(rowsOf).filter(row => !row.classList.contains("hide") && !row.classList.contains("folded"));
      const head = make("tr", {}, make("th", { scope: "col" }, "Mode"), ...rows.map(row => {
        const cell = make("th", { scope: "col", className: "mode", title: row.cells[0].title });
        cell.append($("a", row.cells[0]).cloneNode(true));
        return cell;
      }));
      const body = make("tbody");
      for (const i of order.filter(visible)) {
        const name = make("th", { scope: "row" });
        name.append($("a", heads[i]).cloneNode(true));
        const line = rows.map(row => cells.get(row)[i].cloneNode(true));
        line.forEach(cell => cell.classList.remove("pinned"));
        body.append(make("tr", {}, name, ...line));
      }
      swapped = make("table", { className: "matrix upright" }, make("thead", {}, head), body);
      $$("tbody td a", swapped).forEach((a, i) => {
        a.ariaLabel = $("a", rows[i % rows.length].cells[0]).textContent + ": " + a.title;
      });
      scroller.append(swapped);
    };
    recall = hash => {
      if (!hash.startsWith("#view?")) return false;
      const at = new URLSearchParams(hash.slice("#view?".length));
      for (const [key, value] of Object.entries(view)) {
        const text = at.get(key) || "";
        view[key] = value instanceof Set ? value : typeof value === "boolean" ? text === "yes" : text;
        if (value instanceof Set) { value.clear(); text.split(",").filter(Boolean).forEach(one => value.add(one)); }
      }
      draw(true);
      tools.scrollIntoView();
      return true;
    };
    draw(true);
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
    if (recall(location.hash)) return;
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
