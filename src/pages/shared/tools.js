// The two buttons that every page has: the other language, and the other theme. Both are remembered, and `?lang=zh&theme=light` goes before.

import { otherLanguage, shownLanguage, word, writeWords } from "/assets/words.js";

const THEME = "orderbell.theme";
const by = (id) => document.getElementById(id);
const shownTheme = () => document.documentElement.dataset.theme;

/** Begins in the wanted language and theme. `changed` draws what the page says itself, at first and in each other language; `themed` what has colours of its own. */
export function tools(changed, themed = () => {}) {
  const theme = (name) => {
    document.documentElement.dataset.theme = name;
    by("theme").textContent = word(name === "dark" ? "light" : "dark");
    themed();
  };
  const labels = () => {
    writeWords();
    by("lang").textContent = word("language");
    by("lang").lang = shownLanguage() === "zh" ? "en" : "zh-CN";
    theme(shownTheme());
    changed();
  };
  const wanted = new URLSearchParams(location.search).get("theme") ?? localStorage.getItem(THEME);
  document.documentElement.dataset.theme = wanted === "light" ? "light" : "dark";
  by("lang").onclick = () => {
    otherLanguage();
    labels();
  };
  by("theme").onclick = () => {
    theme(shownTheme() === "dark" ? "light" : "dark");
    localStorage.setItem(THEME, shownTheme());
  };
  labels();
}
