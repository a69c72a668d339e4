// The two buttons of every page: language and theme. Both choices are stored in the browser; `?lang=zh&theme=light` takes precedence.

import { currentLanguage, renderWords, toggleLanguage, word } from "/assets/words.js";

const THEME = "orderbell.theme";
const byId = (id) => document.getElementById(id);
const currentTheme = () => document.documentElement.dataset.theme;

/** Applies the chosen language and theme and wires the buttons. `onLanguage` renders the page's own texts, at first and after each change of language;
 * `onTheme` redraws what does not take its colours from the stylesheet. */
export function initToolbar(onLanguage, onTheme = () => {}) {
  const setTheme = (name) => {
    document.documentElement.dataset.theme = name;
    byId("theme").textContent = word(name === "dark" ? "light" : "dark");
    onTheme();
  };
  const render = () => {
    renderWords();
    byId("lang").textContent = word("language");
    byId("lang").lang = currentLanguage() === "zh" ? "en" : "zh-CN";
    setTheme(currentTheme());
    onLanguage();
  };
  const theme = new URLSearchParams(location.search).get("theme") ?? localStorage.getItem(THEME);
  document.documentElement.dataset.theme = theme === "light" ? "light" : "dark";
  byId("lang").onclick = () => {
    toggleLanguage();
    render();
  };
  byId("theme").onclick = () => {
    setTheme(currentTheme() === "dark" ? "light" : "dark");
    localStorage.setItem(THEME, currentTheme());
  };
  render();
}
