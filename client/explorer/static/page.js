// Of every page: questions to the explorer's own server, the line that says how they go, the go box, and the keys.
(function () {
  "use strict";
  const { element } = Polysem;
  const GONE = "the explorer does not answer; is `polysem explore` still running?";
  const byId = (id) => document.getElementById(id);
  const EVERY_MS = 1000; // asks whether the server serves by now
  const SLOW_MS = 300; // that an answer takes before grey bars stand for it
  const WORDS_MS = 2000; // before it is said what the server does

  function say(text, wrong) {
    byId("status").textContent = text;
    byId("status").className = wrong ? "error" : "";
  }

  // JSON, or an Error with a sentence: the server's own, or that it is gone. away: whether nobody answers.
  // doing: what the line says while the page stays as it is, at first, and once it takes longer.
  async function ask(address, ...doing) {
    const timers = doing.map((words, i) => setTimeout(() => say(words), [SLOW_MS, WORDS_MS][i]));
    try {
      for (;;) {
        let response;
        try {
          response = await fetch(address);
        } catch {
          throw Object.assign(new Error(GONE), { away: true });
        }
        const answer = await response.json().catch(() => ({ error: `the explorer answered ${response.status}` }));
        if (response.ok) return answer;
        if (!answer.warming_up) throw Object.assign(new Error(answer.error), { away: response.status === 502 });
        say(`${answer.error}; this goes on by itself`);
        await untilItServes();
        say("");
      }
    } finally {
      for (const timer of timers) clearTimeout(timer);
      if (doing.includes(byId("status").textContent)) say("");
    }
  }

  // Sends JSON; raises as `ask` does, but sends once.
  async function post(address, value) {
    let response;
    try {
      response = await fetch(address, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(value) });
    } catch {
      throw new Error(GONE);
    }
    const answer = await response.json().catch(() => ({ error: `the explorer answered ${response.status}` }));
    if (!response.ok) throw new Error(answer.error);
    return answer;
  }

  async function untilItServes() {
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
      const answer = await fetch("/api/serving").then((response) => response.json(), () => ({ serving: false }));
      if (answer.serving) return;
    }
  }

  // What failed, in the line; where nobody answers, it is tried again quietly while the page stays as it is.
  function failed(error, again) {
    say(error.message, true);
    if (error.away && again) {
      untilItServes().then(() => {
        if (byId("status").textContent === error.message) { // nothing else was asked meanwhile
          say("");
          again();
        }
      });
    }
  }

  // ---- The go box: a mistyped id keeps the page; whatever is no id is searched for among all clusters

  const box = document.querySelector(".go"), field = box.elements.neuron, offer = byId("offer");
  const LIKE_ID = /^\s*(L\d+N|\d+\.)/i;
  field.addEventListener("input", () => {
    const words = field.value.trim();
    offer.hidden = !words || LIKE_ID.test(words);
    const query = new URLSearchParams(new FormData(box));
    query.delete("neuron");
    query.set("q", words);
    offer.href = `/search?${query}`;
    offer.textContent = `search all clusters for “${words}”`;
  });
  box.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" && !offer.hidden) { event.preventDefault(); offer.focus(); }
    if (event.key === "ArrowUp" && document.activeElement === offer) { event.preventDefault(); field.focus(); }
    if (event.key === "Escape") offer.hidden = true;
  });
  box.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!offer.hidden) {
      location.href = offer.href;
      return;
    }
    const query = new URLSearchParams(new FormData(box));
    try {
      location.href = (await ask(`/api/go?${query}`, "going …")).address;
    } catch (error) {
      failed(error);
      field.select();
    }
  });

  // ---- The list of clusters that this browser keeps, as 2.185.B@0.5

  const KEPT = "polysem-list";
  const list = {
    all: () => { try { return JSON.parse(localStorage.getItem(KEPT)) || []; } catch { return []; } },
    has: (one) => list.all().includes(one),
    set(all) {
      try { localStorage.setItem(KEPT, JSON.stringify(all.slice(0, 50))); } catch { say("this browser keeps no lists", true); }
      count();
    },
    toggle(one) {
      const all = list.all();
      if (!all.includes(one) && all.length >= 50) say("the list has 50 clusters already; save it as a file, and begin another", true);
      else list.set(all.includes(one) ? all.filter((other) => other !== one) : [...all, one]);
    },
  };
  const count = () => { byId("listed").textContent = list.all().length ? ` (${list.all().length})` : ""; };
  count();

  // ---- Keys; none while a field has the focus

  const keys = {
    "/": () => { field.focus(); field.select(); },
    "?": () => byId("help").showModal(),
    "[": () => document.querySelector("a[rel=prev]")?.click(),
    "]": () => document.querySelector("a[rel=next]")?.click(),
    "e": () => document.activeElement.closest(".ps-line")?.querySelector(".ps-key").click(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "k" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      keys["/"]();
      return;
    }
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);
    if (event.key === "Escape" && typing) document.activeElement.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  byId("keys").addEventListener("click", () => byId("help").showModal());
  byId("close-help").addEventListener("click", () => byId("help").close());
  byId("help").addEventListener("click", (event) => { if (event.target === byId("help")) byId("help").close(); });

  // ---- Forms of pages that are asked for anew

  for (const form of document.querySelectorAll("form[data-plain]")) {
    form.addEventListener("submit", (event) => {
      const most = Number(form.dataset.most || Infinity); // an address has room for so much
      if (form.elements.text && form.elements.text.value.length > most) {
        event.preventDefault();
        say(`the text has ${form.elements.text.value.length.toLocaleString("en")} characters; a page takes ` +
          `${most.toLocaleString("en")}, and \`polysem explain\` as many as the model reads`, true);
        return;
      }
      for (const field of form.elements) if (field.name && !field.value && field.name !== "text") field.disabled = true;
      say("asking the server …");
    });
    form.addEventListener("change", (event) => {
      if (event.target.tagName === "SELECT" && (!form.elements.text || form.elements.text.value)) form.requestSubmit();
    });
  }
  addEventListener("pageshow", () => {
    for (const field of document.querySelectorAll("form[data-plain] :disabled")) field.disabled = false;
  });

  // ---- Waiting: grey bars in the final layout, then words; never one without the other

  // Grey bars in `host` if an answer takes long, then what the server does. Returns what ends it.
  function pending(host, words, rows = 3) {
    const timers = [setTimeout(() => host.replaceChildren(...Array.from({ length: rows }, () => element("span", { class: "bone" }))), SLOW_MS),
      setTimeout(() => host.append(element("p", { class: "ps-quiet", role: "status" }, words)), WORDS_MS)];
    return () => { for (const timer of timers) clearTimeout(timer); };
  }

  async function untilReady(waiting) {
    const doing = byId("doing"), began = Date.now() - SLOW_MS;
    setTimeout(() => { doing.textContent = doing.dataset.words; }, WORDS_MS - SLOW_MS);
    for (;;) {
      let answer;
      try {
        answer = await fetch(`/api/ready?ticket=${waiting.dataset.untilReady}`).then((response) => response.json());
      } catch {
        answer = { ready: false, gone: true };
      }
      if (answer.ready) break;
      const seconds = Math.round((Date.now() - began) / 1000);
      doing.textContent = answer.gone ? GONE : answer.away ? "The server says nothing; this page goes on as soon as it does."
        : `${doing.dataset.words} ${seconds} s so far.`;
      if (answer.gone || answer.away) await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
    }
    location.reload();
  }

  const waiting = document.querySelector("[data-until-ready]");
  if (waiting) untilReady(waiting);
  if (document.querySelector("[data-until-it-serves]")) untilItServes().then(() => location.reload());
  Object.assign(Polysem, { byId, say, ask, post, list, failed, keys, pending });
})();
