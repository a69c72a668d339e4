// The texts of the pages in English and Chinese. A page looks a text up by its key; a missing key is shown as it is, so that a test can find it.

const WORDS = {
  en: {
    accept: "Accept",
    accepted: "accepted",
    back: "Back",
    cancelled: "Cancelled: stop cooking",
    card_accepted: "cooking",
    card_paid: "new order",
    card_ready: "waiting for pickup",
    citiesLastHour: "Cities, last hour",
    city: "City",
    closing: "Closing soon",
    collect: "I have it",
    connecting: "connecting",
    created: "created",
    dark: "Dark",
    dataAge: (n) => `${n} s old`,
    dataAgeUnknown: "age of the data unknown",
    dataLate: (n) => `data is ${n} s old`,
    fullScreen: "Full screen",
    h: "h",
    handedOver: "Handed over",
    hour: "Hour",
    language: "中文",
    lastMinutes: (n) => `Last ${n} minutes`,
    light: "Light",
    markReady: "Ready",
    median: (time) => `median ${time}`,
    min: "min",
    newOrder: (order) => `New order ${order}`,
    noNewDataSince: (time) => `no new data since ${time}`,
    noOrders: "No open orders",
    noOrdersHint: "A paid order rings here at once. Press \"Pay an order\" above to try it.",
    noYesterday: "nothing to compare with yet",
    offline: "offline",
    openOrders: "Open orders",
    openPhone: "Customer's phone",
    orderAgain: "Order again",
    orderAt: (order, store) => `Order ${order} at store ${store}`,
    orderNow: "Order and pay",
    orders: "Orders",
    ordersToday: "orders today",
    paid: "paid",
    paidAgo: (time) => `paid ${time} ago`,
    payOne: "Pay an order",
    perMinute: "Orders a minute",
    phone_accepted: "The store is preparing your order. This is your pickup code.",
    phone_cancelled: "Your order was cancelled.",
    phone_none: "You have not ordered yet.",
    phone_paid: "Paid. Waiting for the store to accept.",
    phone_picked_up: "Enjoy your meal.",
    phone_ready: "Your order is ready. Show this code at the counter.",
    phone_refused: (reason) => `The store cannot make your order${reason ? ` (${reason})` : ""}. You will be refunded.`,
    picked_up: "picked up",
    pickupCode: "Code",
    poll: "polling",
    pollingSince: (time) => `polling: last contact ${time} ago`,
    push: "online",
    ready: "ready",
    reconnecting: (time) => `reconnecting: last contact ${time} ago`,
    refuse: "Refuse",
    rejected: (reason) => `Rejected: ${reason}`,
    s: "s",
    seen: "Seen",
    showWall: "Show the wall",
    signIn: "This wall needs a token",
    signInHint: "The wall shows statistics only. Create a token with: orderbell token wall NAME",
    soldOut: "Sold out",
    soundOff: "Sound off",
    soundOn: "Sound on",
    store: "Store",
    storesByReachability: "Stores",
    storesLastHour: "Stores, last hour",
    streamLags: "online, but the order stream lags",
    summary: (orders, minute) => `${orders} orders today, ${minute} in the last minute`,
    superseded: "this device is in use in another window",
    tables: "Tables",
    tillOf: (store) => `Till of store ${store}`,
    today: "today",
    token: "Token",
    tokenRejected: "The token was rejected.",
    tooBusy: "Too busy",
    unreachable: (time) => `offline: no contact for ${time}`,
    versusYesterday: (change, time) => `${change} against yesterday ${time}`,
    viewOptions: "View",
    waitingForFirst: "waiting for the first order",
    wallTitle: (chain) => `${chain}: wall`,
    wasCancelled: (order) => `Order ${order} was cancelled`,
    yesterday: "yesterday",
    yourOrder: "Your order",
  },
  zh: {
    accept: "接单",
    accepted: "已接单",
    back: "返回",
    cancelled: "已取消，请停止制作",
    card_accepted: "制作中",
    card_paid: "新订单",
    card_ready: "待取餐",
    citiesLastHour: "城市 · 近一小时",
    city: "城市",
    closing: "即将打烊",
    collect: "已取餐",
    connecting: "正在连接",
    created: "已下单",
    dark: "深色",
    dataAge: (n) => `${n} 秒前`,
    dataAgeUnknown: "数据时间未知",
    dataLate: (n) => `数据为 ${n} 秒前`,
    fullScreen: "全屏",
    h: "小时",
    handedOver: "已交付",
    hour: "时段",
    language: "English",
    lastMinutes: (n) => `近 ${n} 分钟`,
    light: "浅色",
    markReady: "已出餐",
    median: (time) => `中位数 ${time}`,
    min: "分钟",
    newOrder: (order) => `新订单 ${order}`,
    noNewDataSince: (time) => `${time} 起无新数据`,
    noOrders: "暂无订单",
    noOrdersHint: "订单支付后会立即在此响铃。可点击上方“支付一单”试用。",
    noYesterday: "昨日暂无可比数据",
    offline: "离线",
    openOrders: "待处理订单",
    openPhone: "顾客手机",
    orderAgain: "再来一单",
    orderAt: (order, store) => `订单 ${order} · 门店 ${store}`,
    orderNow: "下单并支付",
    orders: "订单",
    ordersToday: "今日订单",
    paid: "已支付",
    paidAgo: (time) => `${time}前支付`,
    payOne: "支付一单",
    perMinute: "每分钟订单",
    phone_accepted: "商家正在制作，这是您的取餐码。",
    phone_cancelled: "订单已取消。",
    phone_none: "还没有下单。",
    phone_paid: "已支付，等待商家接单。",
    phone_picked_up: "祝您用餐愉快。",
    phone_ready: "餐已备好，请凭取餐码到柜台取餐。",
    phone_refused: (reason) => `商家无法接单${reason ? `（${reason}）` : ""}，款项将退回。`,
    picked_up: "已取餐",
    pickupCode: "取餐码",
    poll: "轮询",
    pollingSince: (time) => `轮询中：上次联系在${time}前`,
    push: "在线",
    ready: "已出餐",
    reconnecting: (time) => `重新连接中：上次联系在${time}前`,
    refuse: "拒单",
    rejected: (reason) => `未被接受：${reason}`,
    s: "秒",
    seen: "知道了",
    showWall: "打开大屏",
    signIn: "大屏需要令牌",
    signInHint: "大屏仅显示统计数字。生成令牌：orderbell token wall 名称",
    soldOut: "已售罄",
    soundOff: "声音关",
    soundOn: "声音开",
    store: "门店",
    storesByReachability: "门店",
    storesLastHour: "门店 · 近一小时",
    streamLags: "在线，但订单流延迟",
    summary: (orders, minute) => `今日 ${orders} 单，近一分钟 ${minute} 单`,
    superseded: "此设备已在另一窗口使用",
    tables: "表格",
    tillOf: (store) => `${store} 号门店收银台`,
    today: "今日",
    token: "令牌",
    tokenRejected: "令牌无效。",
    tooBusy: "订单太多",
    unreachable: (time) => `离线：已失联${time}`,
    versusYesterday: (change, time) => `较昨日 ${time} ${change}`,
    viewOptions: "显示选项",
    waitingForFirst: "等待第一笔订单",
    wallTitle: (chain) => `${chain} · 大屏`,
    wasCancelled: (order) => `订单 ${order} 已取消`,
    yesterday: "昨日",
    yourOrder: "您的订单",
  },
};

const requested = new URLSearchParams(location.search).get("lang");
let language = (requested ?? localStorage.getItem("orderbell.lang") ?? navigator.language).startsWith("zh") ? "zh" : "en";

/** Adds the texts of one page. */
export function addWords({ en, zh }) {
  Object.assign(WORDS.en, en);
  Object.assign(WORDS.zh, zh);
}

/** The page's language: `en` or `zh`. */
export const currentLanguage = () => language;

/** The locale in which numbers and times are formatted. */
export const locale = () => (language === "zh" ? "zh-CN" : "en-GB");

/** Whether there is a text under this key. */
export const hasWord = (key) => key in WORDS[language];

/** The text under `key` in the page's language; `parts` fill it in.
 * @param {string} key @param {...(string | number)} parts */
export function word(key, ...parts) {
  const found = WORDS[language][key] ?? key;
  return typeof found === "function" ? found(...parts) : found;
}

/** Fills in every element with `data-word` (text) or `data-label` (accessible name). */
export function renderWords() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-word]")) {
    element.textContent = word(element.dataset.word);
  }
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", word(element.dataset.label));
  }
}

/** Switches to the other language and stores the choice. */
export function toggleLanguage() {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem("orderbell.lang", language);
  renderWords();
}
