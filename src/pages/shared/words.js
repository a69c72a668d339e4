// What pages say, in both languages. A page asks for words by name; a name that is missing shows as itself, so that a test can find it.

const WORDS = {
  en: {
    accepted: "accepted",
    against: (share, time) => `${share} against yesterday ${time}`,
    agoSeconds: (n) => `${n} s old`,
    away: "offline",
    cities: "cities",
    citiesLastHour: "Cities, last hour",
    city: "City",
    connecting: "connecting",
    created: "created",
    dark: "Dark",
    firstYesterday: "nothing to compare with yet",
    full: "Full screen",
    h: "h",
    hour: "Hour",
    language: "中文",
    lastMinutes: (n) => `Last ${n} minutes`,
    lateSince: (time) => `no new data since ${time}`,
    lateSeconds: (n) => `data is ${n} s old`,
    light: "Light",
    median: (time) => `typically ${time}`,
    min: "min",
    orders: "Orders",
    ordersToday: "orders today",
    paid: "paid",
    perMinute: "Orders a minute",
    picked_up: "picked up",
    poll: "polling",
    push: "online",
    ready: "ready",
    s: "s",
    show: "Show the wall",
    signIn: "This wall needs a token",
    signInWhy: "It shows numbers only. Make one with: orderbell token wall NAME",
    store: "Store",
    storesLastHour: "Stores, last hour",
    storesReached: "Stores",
    summary: (orders, minute) => `${orders} orders today, ${minute} in the last minute`,
    tables: "Tables",
    title: (chain) => `${chain}: wall`,
    today: "today",
    token: "Token",
    tools: "View",
    unknownAge: "age of the data unknown",
    waiting: "waiting for the first order",
    wrongToken: "That token is not taken.",
    yesterday: "yesterday",
  },
  zh: {
    accepted: "已接单",
    against: (share, time) => `较昨日 ${time} ${share}`,
    agoSeconds: (n) => `${n} 秒前`,
    away: "离线",
    cities: "城市",
    citiesLastHour: "城市 · 近一小时",
    city: "城市",
    connecting: "正在连接",
    created: "已下单",
    dark: "深色",
    firstYesterday: "昨日暂无可比数据",
    full: "全屏",
    h: "小时",
    hour: "时段",
    language: "English",
    lastMinutes: (n) => `近 ${n} 分钟`,
    lateSince: (time) => `${time} 起无新数据`,
    lateSeconds: (n) => `数据为 ${n} 秒前`,
    light: "浅色",
    median: (time) => `通常 ${time}`,
    min: "分钟",
    orders: "订单",
    ordersToday: "今日订单",
    paid: "已支付",
    perMinute: "每分钟订单",
    picked_up: "已取餐",
    poll: "轮询",
    push: "在线",
    ready: "已出餐",
    s: "秒",
    show: "打开大屏",
    signIn: "大屏需要令牌",
    signInWhy: "仅显示统计数字。生成令牌：orderbell token wall 名称",
    store: "门店",
    storesLastHour: "门店 · 近一小时",
    storesReached: "门店",
    summary: (orders, minute) => `今日 ${orders} 单，近一分钟 ${minute} 单`,
    tables: "表格",
    title: (chain) => `${chain} · 大屏`,
    today: "今日",
    token: "令牌",
    tools: "显示",
    unknownAge: "数据时间未知",
    waiting: "等待第一笔订单",
    wrongToken: "令牌无效。",
    yesterday: "昨日",
  },
};

const asked = new URLSearchParams(location.search).get("lang");
let language = (asked ?? localStorage.getItem("orderbell.lang") ?? navigator.language).startsWith("zh") ? "zh" : "en";

/** The language that is shown. */
export const shownLanguage = () => language;

/** The locale that numbers and times are written in. */
export const locale = () => (language === "zh" ? "zh-CN" : "en-GB");

/** @param {string} name @param {...(string | number)} parts */
export function word(name, ...parts) {
  const found = WORDS[language][name] ?? name;
  return typeof found === "function" ? found(...parts) : found;
}

/** Writes every fixed word of the page. */
export function writeWords() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-word]")) {
    element.textContent = word(element.dataset.word);
  }
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", word(element.dataset.label));
  }
}

/** The other language, from now on. */
export function otherLanguage() {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem("orderbell.lang", language);
  writeWords();
}
