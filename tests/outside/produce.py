#!/usr/bin/env python3
"""Produces paid orders with CloudEvents' SDK for Python: over Kafka by confluent-kafka, over HTTP by the standard library.

    ORDERBELL_TOKEN=... python produce.py BOOTSTRAP TOPIC SERVER

Each event is sent twice, as a producer sends it that got no answer. The order is the event's subject.
"""
import datetime
import os
import sys
import urllib.request

from cloudevents.core.bindings import http, kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from confluent_kafka import Producer

bootstrap, topic, server = sys.argv[1:4]
FORMAT = JSONFormat()


def paid(order):
    attributes = {
        "type": "order.paid", "source": "/shop/python", "id": f"event-{order}", "subject": order, "specversion": "1.0",
        "time": datetime.datetime.now(datetime.timezone.utc), "datacontenttype": "application/json", "partitionkey": order,
    }
    return CloudEvent(attributes, {"store": "17", "amount": 1250, "currency": "CNY"})


def post(message):
    headers = {**message.headers, "authorization": f"Bearer {os.environ['ORDERBELL_TOKEN']}"}
    request = urllib.request.Request(f"{server}/v1/events", data=message.body, headers=headers, method="POST")
    urllib.request.urlopen(request).read()


def failed(error, _message):
    if error:
        sys.exit(f"not produced: {error}")


producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
for mode, converted in (("binary", kafka.to_binary), ("structured", kafka.to_structured)):
    message = converted(paid(f"kafka-{mode}-1"), FORMAT)
    for _ in range(2):
        producer.produce(topic, message.value, message.key, headers=list(message.headers.items()), on_delivery=failed)
producer.flush()
for mode, converted in (("binary", http.to_binary), ("structured", http.to_structured)):
    message = converted(paid(f"http-{mode}-1"), FORMAT)
    for _ in range(2):
        post(message)
