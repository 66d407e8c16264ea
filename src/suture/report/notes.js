// Names, notes and lists that a reader gives to features: kept in the browser, saved to and read from a JSON file.
//
// They belong to a dictionary by its checksum, so that another report on it shows them too. Whatever a file holds is
// looked at field by field: what is no note is left out and counted.

const NOTES_KEY = "suture-notes";
const NOTES_FORMAT = 1;
const TEXT_LIMIT = 20_000;

const notes = (() => {
  let kept = {};
  let works = true;
  try {
    kept = sound(JSON.parse(localStorage.getItem(NOTES_KEY) || "{}")).found;
  } catch {
    try { localStorage.getItem(NOTES_KEY); } catch { works = false; }
  }

  // Only what is a note: {dictionary: {feature: {name, note, lists}}}.
  function sound(given) {
    const found = {};
    let n = 0;
    let refused = 0;
    const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
    const all = isObject(given) && isObject(given.dictionaries) ? given.dictionaries : {};
    for (const [dictionary, own] of Object.entries(all)) {
      if (!isObject(own) || !isObject(own.features) || !/^[\w-]{1,80}$/.test(dictionary) || dictionary === "__proto__") { refused += 1; continue; }
      const features = {};
      for (const [feature, entry] of Object.entries(own.features)) {
        const texts = isObject(entry) ? [entry.name ?? "", entry.note ?? ""] : [null];
        const lists = isObject(entry) ? entry.lists ?? [] : null;
        const good = /^\d{1,9}$/.test(feature) && texts.every((t) => typeof t === "string" && t.length <= TEXT_LIMIT) && Array.isArray(lists) && lists.every((t) => typeof t === "string" && t.length <= 200);
        if (!good) { refused += 1; continue; }
        const clean = tidy({ name: texts[0], note: texts[1], lists });
        if (clean) { features[String(Number(feature))] = clean; n += 1; }
      }
      if (Object.keys(features).length) found[dictionary] = { features };
    }
    return { found, n, refused, isNotes: isObject(given) && isObject(given.dictionaries) };
  }

  function tidy({ name, note, lists }) {
    const named = [...new Set(lists.map((one) => one.trim()).filter(Boolean))];
    return name.trim() || note.trim() || named.length ? { name: name.trim(), note: note.trim(), lists: named } : null;
  }

  const whole = () => ({ suture_notes: NOTES_FORMAT, dictionaries: kept });

  function keep() {
    try { localStorage.setItem(NOTES_KEY, JSON.stringify(whole())); works = true; } catch { works = false; }
  }

  return {
    of: (dictionary, feature) => kept[dictionary]?.features[feature] || null,
    features: (dictionary) => Object.keys(kept[dictionary]?.features || {}).map(Number),
    lists: (dictionary) => [...new Set(Object.values(kept[dictionary]?.features || {}).flatMap((one) => one.lists))].sort(),
    get works() { return works; },
    set(dictionary, feature, entry) {
      const clean = tidy(entry);
      const own = (kept[dictionary] ||= { features: {} });
      if (clean) own.features[feature] = clean;
      else delete own.features[feature];
      if (!Object.keys(own.features).length) delete kept[dictionary];
      keep();
    },
    // What was read, in words; notes of the file take the place of those on the same features.
    merge(text) {
      let given;
      try { given = JSON.parse(text); } catch { return "This file is not JSON; nothing was read."; }
      const { found, n, refused, isNotes } = sound(given);
      if (!isNotes) return "This file holds no notes of suture; nothing was read.";
      for (const [dictionary, own] of Object.entries(found)) kept[dictionary] = { features: { ...kept[dictionary]?.features, ...own.features } };
      keep();
      return `${n.toLocaleString("en")} notes were read${refused ? `; ${refused.toLocaleString("en")} entries were none and left out` : ""}.`;
    },
    download() {
      const file = new Blob([`${JSON.stringify(whole(), null, 2)}\n`], { type: "application/json" });
      const link = make("a", { href: URL.createObjectURL(file), download: "suture-notes.json" });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    },
  };
})();
