// The alerts that the admin listener reports, by code: a short text in both languages, and the section of the console that shows more. An alert of a newer
// server that is not listed here is shown by its code. A test in `src/pages/mod.rs` holds this table to the server's list.

import { currentLanguage, word } from "/assets/words.js";

const ALERTS = {
  dead_letters: { section: "deadLetters", en: "dead letters are paid orders, or may be", zh: "死信中有已支付的订单，或可能有" },
  device_shared: { section: "stores", en: "two installations use one device id", zh: "两台设备使用同一个编号" },
  disk_low: { section: "latency", en: "low disk space, intake has stopped", zh: "磁盘空间不足，已停止接收新事件" },
  group_shared: { section: "log", en: "another member of the consumer group owns partitions", zh: "消费组的其他成员占用了分区" },
  handler_failing: { section: "log", en: "events cannot be processed", zh: "事件处理失败" },
  issuer_keys_old: { section: "stores", en: "the keys of the tokens' issuer cannot be fetched", zh: "无法获取令牌签发方的公钥" },
  ledger_damaged: { section: "latency", en: "stored rows cannot be read", zh: "账本中有无法读取的数据" },
  ledger_rebuilding: { section: "latency", en: "the ledger is being rebuilt from the log", zh: "正在从日志重建账本" },
  log_truncated: { section: "log", en: "the log ends before the checkpoint", zh: "日志末尾早于检查点" },
  mailbox_overflow: { section: "stores", en: "the mailbox exceeds its limit", zh: "信箱超出上限" },
  notices_undeliverable: { section: "stores", en: "notices cannot be delivered", zh: "有通知无法送达" },
  outbox_blocked: { section: "log", en: "events cannot be published", zh: "事件无法发布" },
  paid_unannounced: { section: "stores", en: "no store is notified of paid orders", zh: "有已支付的订单没有通知任何门店" },
  partition_damaged: { section: "log", en: "a batch is damaged", zh: "数据已损坏" },
  partition_unassigned: { section: "log", en: "the partition cannot be assigned yet", zh: "分区暂时无法分配" },
  retention_gap: { section: "log", en: "records were deleted before they were read", zh: "记录在读取前已被清除" },
  source_clock_off: { section: "log", en: "the clock of this producer of events is off", zh: "该事件来源的时钟不准" },
  state_rolled_back: { section: "log", en: "the ledger is an older copy and is catching up", zh: "账本是旧副本，正在追赶" },
  stream_stale: { section: "log", en: "the order stream lags", zh: "订单流延迟" },
  topic_undecodable: { section: "deadLetters", en: "no event of the topic is understood", zh: "该主题的事件均无法识别" },
  topic_recreated: { section: "log", en: "the topic was recreated", zh: "主题已被重建" },
  wall_stalled: { section: "log", en: "the wall is not updated", zh: "大屏停止更新" },
};

/** A subject for people: a partition (`orders/0`) as it is, a recipient (`store:7`) with the word for it. */
function subjectText(subject) {
  const store = /^store:(.+)$/.exec(subject)?.[1];
  return store === undefined ? subject : `${word("store")} ${store}`;
}

/** What an alert is about, in the page's language. */
export function alertText({ code, subject }) {
  const text = ALERTS[code]?.[currentLanguage()] ?? code;
  return subject ? `${subjectText(subject)}${currentLanguage() === "zh" ? "：" : ": "}${text}` : text;
}

/** The section that shows more about an alert. */
export const alertSection = ({ code }) => ALERTS[code]?.section ?? "log";
