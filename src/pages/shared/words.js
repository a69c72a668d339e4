// What pages say, in both languages. A page asks for words by name; a name that is missing shows as itself, so that a test can find it.

const WORDS = {
  en: {
    accept: "Accept",
    accepted: "accepted",
    against: (share, time) => `${share} against yesterday ${time}`,
    ago: (time) => `paid ${time} ago`,
    agoSeconds: (n) => `${n} s old`,
    at_accepted: "cooking",
    at_paid: "new order",
    at_ready: "waits to be collected",
    away: "offline",
    back: "Back",
    cancelled: "Cancelled: stop cooking",
    cities: "cities",
    citiesLastHour: "Cities, last hour",
    city: "City",
    closing: "We are closing",
    code: "Code",
    collect: "I have it",
    connecting: "connecting",
    created: "created",
    dark: "Dark",
    elsewhere: "another window uses this device",
    firstYesterday: "nothing to compare with yet",
    full: "Full screen",
    h: "h",
    handedOver: "Handed over",
    hour: "Hour",
    is_accepted: "They are cooking. This is your code.",
    is_cancelled: "Your order was cancelled.",
    is_none: "Nothing ordered yet.",
    is_paid: "Paid. The store has not taken it yet.",
    is_picked_up: "Enjoy your meal.",
    is_ready: "It is ready. Show this code at the counter.",
    is_refused: (reason) => `The store cannot make it${reason ? ` (${reason})` : ""}. Your money comes back.`,
    isReady: "Ready",
    lags: "online, but the order system lags",
    language: "中文",
    lastMinutes: (n) => `Last ${n} minutes`,
    lateSeconds: (n) => `data is ${n} s old`,
    lateSince: (time) => `no new data since ${time}`,
    light: "Light",
    median: (time) => `typically ${time}`,
    min: "min",
    newOrder: (order) => `New order ${order}`,
    noOrders: "No open orders",
    noOrdersWhy: "One rings here as soon as it is paid: press \"Pay an order\" above.",
    notTaken: (reason) => `Not taken: ${reason}`,
    openOrders: "Open orders",
    openPhone: "Customer's phone",
    orderAgain: "Order again",
    orderAt: (order, store) => `Order ${order} at store ${store}`,
    orderNow: "Order and pay",
    orders: "Orders",
    ordersToday: "orders today",
    paid: "paid",
    payOne: "Pay an order",
    perMinute: "Orders a minute",
    picked_up: "picked up",
    poll: "polling",
    polledAgo: (time) => `polling: last heard ${time} ago`,
    push: "online",
    ready: "ready",
    reconnecting: (time) => `reconnecting: last heard ${time} ago`,
    refuse: "Refuse",
    s: "s",
    seen: "Seen",
    show: "Show the wall",
    signIn: "This wall needs a token",
    signInWhy: "It shows numbers only. Make one with: orderbell token wall NAME",
    soldOut: "Sold out",
    soundOff: "Sound off",
    soundOn: "Sound on",
    store: "Store",
    storesLastHour: "Stores, last hour",
    storesReached: "Stores",
    summary: (orders, minute) => `${orders} orders today, ${minute} in the last minute`,
    tables: "Tables",
    tillOf: (store) => `Till of store ${store}`,
    title: (chain) => `${chain}: wall`,
    today: "today",
    token: "Token",
    tooBusy: "Too busy",
    tools: "View",
    unheard: (time) => `offline: nobody heard for ${time}`,
    unknownAge: "age of the data unknown",
    waiting: "waiting for the first order",
    wasCancelled: (order) => `Order ${order} was cancelled`,
    wrongToken: "That token is not taken.",
    yesterday: "yesterday",
    yourOrder: "Your order",
  },
  zh: {
    accept: "接单",
    accepted: "已接单",
    against: (share, time) => `较昨日 ${time} ${share}`,
    ago: (time) => `${time}前支付`,
    agoSeconds: (n) => `${n} 秒前`,
    at_accepted: "制作中",
    at_paid: "新订单",
    at_ready: "待取餐",
    away: "离线",
    back: "返回",
    cancelled: "已取消，请停止制作",
    cities: "城市",
    citiesLastHour: "城市 · 近一小时",
    city: "城市",
    closing: "即将打烊",
    code: "取餐码",
    collect: "已取餐",
    connecting: "正在连接",
    created: "已下单",
    dark: "深色",
    elsewhere: "此设备已在另一窗口使用",
    firstYesterday: "昨日暂无可比数据",
    full: "全屏",
    h: "小时",
    handedOver: "已交付",
    hour: "时段",
    is_accepted: "商家正在制作，这是您的取餐码。",
    is_cancelled: "订单已取消。",
    is_none: "还没有下单。",
    is_paid: "已支付，等待商家接单。",
    is_picked_up: "祝您用餐愉快。",
    is_ready: "餐已备好，请凭取餐码到柜台取餐。",
    is_refused: (reason) => `商家无法接单${reason ? `（${reason}）` : ""}，款项将退回。`,
    isReady: "已出餐",
    lags: "在线，但订单系统延迟",
    language: "English",
    lastMinutes: (n) => `近 ${n} 分钟`,
    lateSeconds: (n) => `数据为 ${n} 秒前`,
    lateSince: (time) => `${time} 起无新数据`,
    light: "浅色",
    median: (time) => `通常 ${time}`,
    min: "分钟",
    newOrder: (order) => `新订单 ${order}`,
    noOrders: "暂无订单",
    noOrdersWhy: "支付后会立即在这里响铃：请点上方“支付一单”。",
    notTaken: (reason) => `未被接受：${reason}`,
    openOrders: "待处理订单",
    openPhone: "顾客手机",
    orderAgain: "再来一单",
    orderAt: (order, store) => `订单 ${order} · 门店 ${store}`,
    orderNow: "下单并支付",
    orders: "订单",
    ordersToday: "今日订单",
    paid: "已支付",
    payOne: "支付一单",
    perMinute: "每分钟订单",
    picked_up: "已取餐",
    poll: "轮询",
    polledAgo: (time) => `轮询中：${time}前有消息`,
    push: "在线",
    ready: "已出餐",
    reconnecting: (time) => `重新连接中：${time}前有消息`,
    refuse: "拒单",
    s: "秒",
    seen: "知道了",
    show: "打开大屏",
    signIn: "大屏需要令牌",
    signInWhy: "仅显示统计数字。生成令牌：orderbell token wall 名称",
    soldOut: "已售罄",
    soundOff: "声音关",
    soundOn: "声音开",
    store: "门店",
    storesLastHour: "门店 · 近一小时",
    storesReached: "门店",
    summary: (orders, minute) => `今日 ${orders} 单，近一分钟 ${minute} 单`,
    tables: "表格",
    tillOf: (store) => `${store} 号门店收银台`,
    title: (chain) => `${chain} · 大屏`,
    today: "今日",
    token: "令牌",
    tooBusy: "订单太多",
    tools: "显示",
    unheard: (time) => `离线：${time}没有消息`,
    unknownAge: "数据时间未知",
    waiting: "等待第一笔订单",
    wasCancelled: (order) => `订单 ${order} 已取消`,
    wrongToken: "令牌无效。",
    yesterday: "昨日",
    yourOrder: "您的订单",
  },
};

const asked = new URLSearchParams(location.search).get("lang");
let language = (asked ?? localStorage.getItem("orderbell.lang") ?? navigator.language).startsWith("zh") ? "zh" : "en";

/** More words, of one page. */
export function teach({ en, zh }) {
  Object.assign(WORDS.en, en);
  Object.assign(WORDS.zh, zh);
}

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
