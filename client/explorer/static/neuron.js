// The page of a neuron: its drawing, whose address is kept, and what is asked for on its cards.
(function () {
  "use strict";
  const { byId, say, ask, failed, keys, element } = Polysem;
  const host = byId("neuron"), form = byId("choices"), id = host.dataset.neuron;
  const { unit } = document.body.dataset;
  const USUAL = 0.5; // cut
  let data = JSON.parse(byId("data").textContent);
  let view = null, cut = null; // cut: the one in the address; null: the usual one

  const given = new URLSearchParams(location.search);
  if (given.has("cut") || given.has("distance_threshold")) cut = Number(given.get("cut") ?? given.get("distance_threshold"));

  // Frames but raw have no usual cut: the suggested one is theirs.
  const usual = () => {
    const suggested = Polysem.suggestedCut(data);
    return form.elements.frame.value !== "raw" && suggested !== null ? suggested : USUAL;
  };

  function chosen() { // the choices and the cut, defaults left out
    const query = new URLSearchParams();
    for (const [name, value] of new FormData(form)) {
      const field = form.elements[name];
      const first = field.tagName === "SELECT" ? field.options[0].value : "positive";
      if (value !== first) query.set(name === "algorithm" ? "by" : name, value);
    }
    if (cut !== null) query.set("cut", cut);
    return query;
  }
  const addressOf = (query) => (query.toString() ? `?${query}` : "");
  const asked = () => { // the index and its side, as of every question
    const query = chosen();
    return addressOf(new URLSearchParams(["index", "side"].filter((name) => query.has(name)).map((name) => [name, query.get(name)])));
  };

  let later = 0;
  function changed(found) {
    const distance = Number(found.threshold.toFixed(3));
    cut = Math.abs(distance - usual()) < 6e-4 ? null : distance;
    clearTimeout(later); // browsers refuse a hundred address changes in a row
    later = setTimeout(() => history.replaceState(null, "", addressOf(chosen()) || location.pathname), 200);
  }

  function draw() {
    if (!data.n) return;
    view = Polysem.show(host, data, {
      title: false,
      heading: 2,
      badges: byId("badges"),
      settings: form,
      open: host.dataset.open,
      threshold: cut === null ? usual() : cut,
      changed: (found) => { changed(found); detached(found); },
      ofCluster: (cluster) => [...(data.kept ? naming(cluster) : []), ...similar(cluster), ...causes(cluster)],
      importance: async (place) => {
        const { importances } = await ask(`/api/neuron/${id}/importance/${place}${asked()}`);
        const example = data.examples[place];
        const first = example.key + 1 - importances.length;
        return { ...example, importances: example.tokens.map((_, i) => importances[i - first] ?? null) };
      },
      whole: (place) => ask(`/api/neuron/${id}/example/${place}${asked()}`),
    });
  }

  // Links that open the clusters of other neurons that are like this one, at the cut that is seen.
  function similar(cluster) {
    const box = element("div", { class: "similar" });
    const note = element("span", { role: "status", class: "ps-quiet" });
    const find = async (everywhere) => {
      note.textContent = "";
      const answered = Polysem.pending(box, `The server compares it with every cluster; a cut that is new to it clusters every ${unit} first.`, 6);
      const query = chosen();
      query.set("cut", view.found().threshold);
      if (everywhere) query.set("every_layer", "1");
      try {
        const others = await ask(`/api/neuron/${id}/similar/${cluster.label}?${query}`);
        note.textContent = others.length ? "" : "there is none";
        answered();
        box.replaceChildren(element("ol", { class: "others" }, ...others.map((other) => element("li", {},
          element("a", { href: other.address }, other.neuron, " ", Polysem.chip(other, true)),
          element("b", {}, other.similarity.toFixed(2)), Polysem.snippet(other.example),
          element("span", { class: "ps-quiet" }, Polysem.count(other.size, "example"),
            other.approximate ? " of nearest neighbours" : "")))));
      } catch (error) {
        answered();
        box.replaceChildren();
        note.textContent = error.message;
      }
    };
    const button = (text, everywhere) =>
      element("button", { type: "button", class: "ps-link", onclick: () => find(everywhere) }, text);
    const written = () => `${id}.${cluster.letter}@${Number(view.found().threshold.toFixed(3))}`;
    const keeps = element("button", { type: "button", class: "ps-link", onclick: () => {
      Polysem.list.toggle(written());
      keeps.textContent = Polysem.list.has(written()) ? "in the list" : "add to the list";
    } }, "add to the list");
    return [keeps, button("similar clusters", false), button("in every layer", true),
      element("a", { class: "ps-link", href: `/neuron/${id}/${cluster.letter}${addressOf(chosen())}` }, "link"), note, box];
  }

  // A link that asks what the cluster causes; of latents it is not known.
  function causes(cluster) {
    if (!byId("writes")) return [];
    const box = element("div", { class: "similar causes", "aria-live": "polite" });
    const open = element("button", { type: "button", class: "ps-link", onclick: async () => {
      const answered = Polysem.pending(box, "The server reads a sample of its texts with the neuron set to zero, and with others: some seconds.", 6);
      const query = chosen();
      query.set("cut", view.found().threshold);
      open.disabled = true;
      try {
        const found = await ask(`/api/neuron/${id}/ablation/${cluster.label}?${query}`);
        answered();
        Polysem.ablation(box, found);
      } catch (error) {
        answered();
        box.replaceChildren(element("p", { class: "error" }, error.message));
      } finally {
        open.disabled = false;
      }
    } }, "what it causes");
    return [open, box];
  }

  // ---- Names that are kept

  async function keep(members, text) {
    await Polysem.post(`/api/neuron/${id}/name${asked()}`, { members, text });
    data = await ask(`/api/neuron/${id}${addressOf(chosen())}`, "naming …");
    draw();
  }

  // A link that becomes a field for the cluster's name.
  function naming(cluster) {
    const open = element("button", { type: "button", class: "ps-link", onclick: () => {
      field.value = cluster.kept ? cluster.kept.text : "";
      open.hidden = true;
      box.hidden = false;
      field.select();
    } }, cluster.kept ? "rename" : "name");
    const field = element("input", { name: "text", maxlength: 200, required: true, autocomplete: "off",
      "aria-label": `name of cluster ${cluster.letter}`, placeholder: "what its texts have in common" });
    const close = () => { box.hidden = true; open.hidden = false; open.focus(); };
    const send = async (text) => {
      try {
        await keep(cluster.members, text);
        say(text ? `${cluster.letter} is named` : `the name of ${cluster.letter} is forgotten`);
        document.querySelector(`.ps-card[data-cluster="${cluster.letter}"] .name-open`)?.focus();
      } catch (error) {
        failed(error);
      }
    };
    const button = (text, go) => element("button", { type: go ? "button" : "submit", class: "ps-button", onclick: go }, text);
    const box = element("form", { class: "naming", hidden: true,
      onsubmit: (event) => { event.preventDefault(); send(field.value.trim()); },
      onkeydown: (event) => { if (event.key === "Escape") { event.stopPropagation(); close(); } } },
    field, button("keep"), cluster.kept ? button("forget", () => send("")) : null, button("cancel", close));
    open.classList.add("name-open");
    return [open, box];
  }

  // Names of sets that are no clusters of this cut.
  function detached(found) {
    const box = byId("detached");
    if (!box) return;
    box.hidden = !found.detached.length;
    box.querySelector("ul").replaceChildren(...found.detached.map((name) => {
      const forget = async () => {
        try {
          await keep(name.members, "");
          say("the name is forgotten");
        } catch (error) {
          failed(error);
        }
      };
      const shown = name.members.slice(0, 12).join(", ") + (name.members.length > 12 ? " …" : "");
      return element("li", {}, element("b", {}, name.text), element("span", { class: "ps-quiet" },
        ` detached · ${Polysem.count(name.members.length, "example")} (${shown}) · ${name.author} ${name.day} `),
      element("button", { type: "button", class: "ps-link", onclick: forget }, "forget"));
    }));
  }

  async function again() {
    if (form.elements.index && form.elements.index.value !== (given.get("index") || "")) {
      location.search = addressOf(chosen());
      return;
    }
    try {
      data = await ask(`/api/neuron/${id}${addressOf(chosen())}`, "clustering …",
        `The server clusters the ${unit}'s examples and compares them with random rotations of them; until then this is the tree as it was.`);
      say("");
      history.pushState(null, "", addressOf(chosen()) || location.pathname);
      draw();
    } catch (error) {
      failed(error, again);
    }
  }

  // What the neuron writes: asked for once, when it is looked at or taken away; of latents it is not known.
  let asking = byId("writes") ? null : Promise.resolve(null);
  const effects = () => (asking = asking || ask(`/api/neuron/${id}/logit_effects${asked()}`));

  async function drawEffects() {
    const says = byId("effects-says");
    says.textContent = "asking the server …";
    try {
      Polysem.logitEffects(byId("effects"), await effects());
      says.textContent = "";
    } catch (error) {
      says.textContent = error.message;
      asking = null;
    }
  }

  if (byId("writes")) {
    new IntersectionObserver((seen, observer) => {
      if (!seen.some((entry) => entry.isIntersecting)) return;
      observer.disconnect();
      drawEffects();
    }).observe(byId("writes"));
  }

  form.addEventListener("submit", (event) => { event.preventDefault(); again(); });
  form.addEventListener("change", again);
  addEventListener("popstate", () => location.reload());
  Object.assign(keys, { j: () => view?.next(), k: () => view?.previous(), s: () => view?.suggest() });
  draw();
  Polysem.histogram(byId("histogram"), byId("histogram-says"), JSON.parse(byId("statistics").textContent));
  if (data.n) Polysem.downloads(id, () => view, () => data, effects);
  performance.mark("drawn"); // for tests/benchmarks/explorer.py
})();
