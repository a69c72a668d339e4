// Produces paid orders with CloudEvents' SDK for JavaScript: over Kafka by kafkajs, over HTTP with fetch.
//
//   ORDERBELL_TOKEN=... node produce.js BOOTSTRAP TOPIC SERVER
//
// Each event is sent twice, as a producer sends it that got no answer. The order is the event's subject.
'use strict';

const { CloudEvent, HTTP, Kafka, Mode, emitterFor } = require('cloudevents');
const kafkajs = require('kafkajs');

const [bootstrap, topic, server] = process.argv.slice(2);

const paid = (order) => new CloudEvent({
  type: 'order.paid',
  source: '/shop/javascript',
  id: `event-${order}`,
  subject: order,
  partitionkey: order,
  datacontenttype: 'application/json',
  data: { store: '17', amount: 1250, currency: 'CNY' },
});

async function overKafka() {
  const client = new kafkajs.Kafka({ brokers: [bootstrap], logLevel: kafkajs.logLevel.ERROR });
  const producer = client.producer({ createPartitioner: kafkajs.Partitioners.DefaultPartitioner });
  await producer.connect();
  for (const mode of ['binary', 'structured']) {
    const { headers, key, value } = Kafka[mode](paid(`kafka-${mode}-1`));
    // The SDK also names the attributes that are not set, which kafkajs cannot write.
    const set = Object.fromEntries(Object.entries(headers).filter(([, value]) => value !== undefined));
    const message = { headers: set, key, value: typeof value === 'string' ? value : JSON.stringify(value) };
    await producer.send({ topic, messages: [message, message] });
  }
  await producer.disconnect();
}

async function post({ headers, body }) {
  const authorization = `Bearer ${process.env.ORDERBELL_TOKEN}`;
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  const answer = await fetch(`${server}/v1/events`, { method: 'POST', headers: { ...headers, authorization }, body: text });
  if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
}

async function overHttp() {
  for (const [name, mode] of [['binary', Mode.BINARY], ['structured', Mode.STRUCTURED]]) {
    const emit = emitterFor(post, { binding: HTTP, mode });
    const event = paid(`http-${name}-1`);
    await emit(event);
    await emit(event);
  }
}

overKafka().then(overHttp).catch((error) => {
  console.error(error);
  process.exit(1);
});
