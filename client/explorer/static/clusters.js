// The pages of search, of lists and of maps: a row a cluster, or a group of them, and the list that this browser keeps.
(function () {
  "use strict";
  const { byId, say, keys, element, chip, title, snippet, count, list } = Polysem;
  const EVERY_MS = 1000;
  const holder = byId("data"), data = holder && JSON.parse(holder.textContent), isList = holder && "list" in holder.dataset;
  const words = (new URLSearchParams(location.search).get("q") || "").toLowerCase().match(/[\p{L}\p{N}_]+/gu) || [];

  // Outlines the words that were looked for, wherever one stands whole in a piece of the line.
  function outlined(line) {
    if (!words.length) return line;
    const wanted = new RegExp(`(?<![\\p{L}\\p{N}_])(${words.join("|")})(?![\\p{L}\\p{N}_])`, "iu");
    const walk = document.createTreeWalker(line, NodeFilter.SHOW_TEXT), nodes = [];
    while (walk.nextNode()) nodes.push(walk.currentNode);
    for (const node of nodes) {
      const match = wanted.exec(node.textContent);
      if (!match) continue;
      const rest = node.splitText(match.index);
      rest.splitText(match[0].length);
      const mark = element("span", { class: "match" });
      rest.replaceWith(mark);
      mark.append(rest);
    }
    return line;
  }

  function row(one, i) {
    const acts = isList ? [i ? button("up", () => moved(i, i - 1)) : null, i + 1 < data.rows.length ? button("down", () => moved(i, i + 1)) : null,
      button("remove", () => moved(i, null))] : one.written ? [adds(one)] : [];
    const quiet = [one.size && one.name ? count(one.size, "example") : "", one.why].filter((words) => words).join(" · ");
    return element("li", { class: "hit" },
      element("div", { class: "named" }, one.letter ? chip(one) : null,
        element("a", { class: "to", href: one.address }, one.neuron ? `${one.neuron} ` : "", element("b", {}, title(one))),
        element("span", { class: "ps-quiet" }, quiet),
        element("span", { class: "acts" }, ...acts)),
      ...one.lines.map((line) => outlined(snippet(line))));
  }
  const button = (text, onclick) => element("button", { type: "button", class: "ps-link", onclick }, text);

  function adds(one) {
    const made = button("", () => { list.toggle(one.written); show(); });
    const show = () => {
      made.textContent = list.has(one.written) ? "in the list" : "add to the list";
      made.setAttribute("aria-pressed", String(list.has(one.written)));
    };
    show();
    return made;
  }

  // ---- The list in the address

  function go(written, replace) {
    const query = new URLSearchParams(location.search);
    query.delete("c");
    const others = query.toString();
    const address = `/list?${written.length ? `c=${written.join(",")}` : "c="}${others ? `&${others}` : ""}`;
    if (replace) location.replace(address);
    else location.href = address;
  }
  const written = () => data.rows.map((one) => one.written);

  function moved(from, to) { // to null: out of the list
    const all = written(), [one] = all.splice(from, 1);
    if (to !== null) all.splice(to, 0, one);
    if (list.has(one)) list.set(all);
    go(all);
  }

  function acts() {
    const on = (name, act, event = "click") => document.querySelector(`[data-${name}]`)?.addEventListener(event, act);
    on("copy-list", async () => {
      await navigator.clipboard.writeText(location.href);
      say("the link is copied");
    });
    on("save-list", () => {
      const link = element("a", { href: URL.createObjectURL(new Blob([`${written().join("\n")}\n`], { type: "text/plain" })), download: "clusters.txt" });
      link.click();
      URL.revokeObjectURL(link.href);
    });
    on("open-list", async (event) => {
      const text = await event.target.files[0].text();
      go(text.split(/[,\s]+/).filter((part) => part));
    }, "change");
    on("keep-list", () => { list.set(written()); say(`this browser keeps ${count(written().length, "cluster")}`); });
    on("print-list", () => print());
    document.querySelector("label[tabindex]")?.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); event.target.querySelector("input").click(); }
    });
  }

  async function untilMade() {
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
      let found;
      try {
        found = await Polysem.ask(`/api/search${location.search}`);
      } catch (error) {
        say(error.message, true);
        return;
      }
      if (!found.n_to_do) break;
      byId("making").querySelector("b").textContent = found.n_done.toLocaleString("en");
    }
    location.reload();
  }

  if (byId("making")) untilMade();
  else if (data) byId("found").append(...data.rows.map(row));
  if (isList) {
    acts();
    if (!new URLSearchParams(location.search).has("c") && list.all().length) go(list.all(), true);
  }
  const step = (by) => {
    const links = [...document.querySelectorAll("#found .to")], at = links.indexOf(document.activeElement);
    links[Math.min(Math.max(at + by, 0), links.length - 1)]?.focus();
  };
  Object.assign(keys, { j: () => step(1), k: () => step(-1),
    x: () => document.activeElement.closest(".hit")?.querySelector("[aria-pressed]")?.click() });
  performance.mark("drawn");
})();
