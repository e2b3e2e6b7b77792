// The explorer's pages: asks the explorer's own server for JSON, and keeps the address that of what is seen.
(function () {
  "use strict";
  const { element } = Polysem;
  const byId = (id) => document.getElementById(id);
  const EVERY_MS = 1000; // asks whether the server serves by now

  // JSON, or an Error with a sentence: the server's own, or that it is gone.
  async function ask(address) {
    for (;;) {
      let response;
      try {
        response = await fetch(address);
      } catch {
        throw new Error("the explorer does not answer; is `polysem explore` still running?");
      }
      const answer = await response.json().catch(() => ({ error: `the explorer answered ${response.status}` }));
      if (response.ok) return answer;
      if (!answer.warming_up) throw new Error(answer.error);
      say(`${answer.error}; this goes on by itself`);
      await untilItServes();
      say("");
    }
  }

  async function untilItServes() {
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
      const answer = await fetch("/api/serving").then((response) => response.json(), () => ({ serving: false }));
      if (answer.serving) return;
    }
  }

  function say(text, wrong) {
    byId("status").textContent = text;
    byId("status").className = wrong ? "error" : "";
  }

  // ---- A neuron's page

  function startNeuron() {
    const host = byId("neuron"), form = byId("choices"), id = host.dataset.neuron;
    let data = JSON.parse(byId("data").textContent);
    let view = null;

    function chosen() { // the form's choices, defaults left out
      const query = new URLSearchParams();
      for (const [name, value] of new FormData(form)) {
        const field = form.elements[name];
        const usual = field.tagName === "SELECT" ? field.options[0].value : "0.5";
        if (value !== usual) query.set(name, value);
      }
      return query;
    }

    const withIndex = (address) => {
      const index = new URLSearchParams(location.search).get("index");
      return index ? `${address}?${new URLSearchParams({ index })}` : address;
    };

    let later = 0;
    function changed(found) {
      form.elements.distance_threshold.value = Number(found.threshold.toFixed(3));
      clearTimeout(later); // browsers refuse a hundred address changes in a row
      later = setTimeout(() => {
        const query = chosen().toString();
        history.replaceState(null, "", query ? `?${query}` : location.pathname);
      }, 200);
    }

    function draw(threshold) {
      view = Polysem.show(host, data, {
        title: false,
        heading: 2,
        threshold,
        changed,
        ofCluster: (cluster) => similar(cluster.label),
        importance: async (place) => {
          const { importances } = await ask(withIndex(`/api/neuron/${id}/importance/${place}`));
          const example = data.examples[place];
          const first = example.key + 1 - importances.length;
          return { ...example, importances: example.tokens.map((_, i) => importances[i - first] ?? null) };
        },
        whole: (place) => ask(withIndex(`/api/neuron/${id}/example/${place}`)),
      });
    }

    // A button that opens the clusters of other neurons that are like this one, at the cut that is seen.
    function similar(label) {
      const box = element("div", { class: "similar" });
      const note = element("span", { role: "status" });
      const find = async (everywhere) => {
        note.textContent = " asking the server; a cut that is new to it clusters every neuron first …";
        const query = chosen();
        query.set("distance_threshold", view.found().threshold);
        if (everywhere) query.set("every_layer", "1");
        try {
          const others = await ask(`/api/neuron/${id}/similar/${label}?${query}`);
          note.textContent = others.length ? "" : " there is none";
          box.replaceChildren(element("ol", { class: "others" }, ...others.map((other) => element("li", {},
            element("a", { href: other.address }, `${other.neuron} cluster ${other.label}`),
            ` similarity ${other.similarity.toFixed(2)}, ${other.size} examples: `, Polysem.exampleText(other.example)))));
        } catch (error) {
          note.textContent = ` ${error.message}`;
        }
      };
      const button = (text, everywhere) =>
        element("button", { type: "button", class: "ps-small", onclick: () => find(everywhere) }, text);
      return element("div", {}, button("similar clusters", false), " ", button("in every layer", true), note, box);
    }

    async function again() {
      const query = chosen().toString();
      say("clustering …");
      form.querySelector("button").disabled = true;
      try {
        data = await ask(`/api/neuron/${id}${query ? "?" + query : ""}`);
        draw();
        say("");
      } catch (error) {
        say(error.message, true);
      } finally {
        form.querySelector("button").disabled = false;
      }
    }

    form.addEventListener("submit", (event) => { event.preventDefault(); again(); });
    form.addEventListener("change", (event) => {
      if (event.target.tagName === "SELECT") again();
    });
    if (data.n) draw();
    else Polysem.show(host, data, { title: false });
    performance.mark("drawn"); // for tests/benchmarks/explorer.py

    // ---- Downloads

    const seen = () => {
      const found = view.found();
      return {
        neuron: id, distance_threshold: found.threshold, n_examples: data.n, n_clusters: found.clusters.length,
        intra: found.intra, inter: found.inter, silhouette: found.silhouette, largest_share: found.largestShare,
        how: data.note, link: location.href,
        clusters: found.clusters.map((c) => ({ letter: c.letter, label: c.label, size: c.size, central: c.central, rare: c.rare,
          mean_distance: c.meanDistance, members: [...c.members].sort((a, b) => a - b) })),
        labels: found.labels,
        linkage: data.merges.map(([a, b], i) => [a, b, data.heights[i]]),
        examples: data.examples.map((e) => ({ document: e.document, position: e.position, activation: e.activation,
          key: e.key, key_token: e.key_token, key_part: e.key_part, tokens: e.tokens, activations: e.activations })),
      };
    };

    function csv() {
      const rows = [["neuron", "example", "cluster", "letter", "central", "document", "position", "activation", "key_token",
        "key_part", "text"]];
      const { labels, clusters } = view.found();
      const centrals = new Set(clusters.map((cluster) => cluster.central));
      const letters = new Map(clusters.map((cluster) => [cluster.label, cluster.letter]));
      data.examples.forEach((e, place) => rows.push([id, place, labels[place], letters.get(labels[place]), centrals.has(place) ? 1 : 0, e.document,
        e.position, e.activation, e.key_token, e.key_part, e.tokens.join("")]));
      return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
    }

    // Quoted where need be. A text that a spreadsheet would take for a formula gets an apostrophe before it, and so does
    // one that begins with an apostrophe: without the first one, each is what it was.
    function cell(value) {
      const text = typeof value === "string" && /^[=+\-@\t\r\n＝＋－＠']/.test(value) ? `'${value}` : String(value);
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    }

    const page = () => {
      const { color, backgroundColor } = getComputedStyle(document.body);
      return { ink: color, ground: backgroundColor };
    };

    const makers = {
      json: async () => new Blob([JSON.stringify(seen(), null, 1)], { type: "application/json" }),
      csv: async () => new Blob([csv()], { type: "text/csv" }),
      png: () => Polysem.picture(view, data, page()),
      svg: async () => new Blob([Polysem.treeSvg(view.svg, page().ink)], { type: "image/svg+xml" }),
    };
    for (const button of document.querySelectorAll("[data-download]")) {
      button.addEventListener("click", async () => {
        const kind = button.dataset.download;
        let made;
        try {
          made = await makers[kind]();
        } catch (error) {
          say(`the ${kind.toUpperCase()} could not be made: ${error.message}`, true);
          return;
        }
        const address = URL.createObjectURL(made);
        element("a", { href: address, download: `polysem-${id}.${kind}` }).click();
        setTimeout(() => URL.revokeObjectURL(address), 10000);
      });
    }
    const copy = document.querySelector("[data-copy]");
    if (copy) {
      copy.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(location.href);
          say("the link to this view is copied");
        } catch {
          say(`the link to this view: ${location.href}`);
        }
      });
    }
  }

  // Empty fields are left out of the address, and the wait is told: a clustering that is new takes a while.
  for (const form of document.querySelectorAll("form:not(#choices)")) {
    form.addEventListener("submit", (event) => {
      const most = Number(form.dataset.most || Infinity); // an address has room for so much
      if (form.elements.text && form.elements.text.value.length > most) {
        event.preventDefault();
        say(`the text has ${form.elements.text.value.length.toLocaleString("en")} characters; a page takes ` +
          `${most.toLocaleString("en")}, and \`polysem explain\` as many as the model reads`, true);
        return;
      }
      for (const field of form.elements) if (field.name && !field.value && field.name !== "text") field.disabled = true;
      if (byId("status")) say("asking the server …");
    });
  }
  addEventListener("pageshow", () => {
    for (const field of document.querySelectorAll("form:not(#choices) :disabled")) field.disabled = false;
  });

  if (byId("neuron")) startNeuron();
  if (document.querySelector("[data-until-it-serves]")) untilItServes().then(() => location.reload());
})();
