// Produces paid orders with CloudEvents' SDK for Go: over Kafka by its protocol on sarama, over HTTP by its own client, also as a batch.
//
//	ORDERBELL_TOKEN=... produce BOOTSTRAP TOPIC SERVER
//
// Each event is sent twice, as a producer sends it that got no answer. The order is the event's subject.
package main

import (
	"context"
	"fmt"
	"log"
	nethttp "net/http"
	"os"
	"time"

	"github.com/IBM/sarama"
	"github.com/cloudevents/sdk-go/protocol/kafka_sarama/v2"
	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/protocol/http"
)

var modes = map[string]func(context.Context) context.Context{
	"binary":     cloudevents.WithEncodingBinary,
	"structured": cloudevents.WithEncodingStructured,
}

func paid(order string) cloudevents.Event {
	event := cloudevents.NewEvent()
	event.SetType("order.paid")
	event.SetSource("/shop/go")
	event.SetID("event-" + order)
	event.SetSubject(order)
	event.SetTime(time.Now())
	data := map[string]any{"store": "17", "amount": 1250, "currency": "CNY"}
	must(event.SetData(cloudevents.ApplicationJSON, data))
	return event
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func send(client cloudevents.Client, ctx context.Context, event cloudevents.Event) {
	for range 2 {
		if result := client.Send(ctx, event); !cloudevents.IsACK(result) {
			log.Fatal(result)
		}
	}
}

func overKafka(bootstrap, topic string) {
	config := sarama.NewConfig()
	config.Version = sarama.V3_6_0_0
	sender, err := kafka_sarama.NewSender([]string{bootstrap}, config, topic)
	must(err)
	client, err := cloudevents.NewClient(sender)
	must(err)
	for mode, with := range modes {
		order := fmt.Sprintf("kafka-%s-1", mode)
		ctx := kafka_sarama.WithMessageKey(with(context.Background()), sarama.StringEncoder(order))
		send(client, ctx, paid(order))
	}
	must(sender.Close(context.Background()))
}

func overHTTP(server, token string) {
	protocol, err := cloudevents.NewHTTP(cloudevents.WithTarget(server), cloudevents.WithHeader("Authorization", token))
	must(err)
	client, err := cloudevents.NewClient(protocol)
	must(err)
	for mode, with := range modes {
		send(client, with(context.Background()), paid(fmt.Sprintf("http-%s-1", mode)))
	}
	batch := []cloudevents.Event{paid("http-batch-1"), paid("http-batch-2")}
	for range 2 {
		request, err := http.NewHTTPRequestFromEvents(context.Background(), server, batch)
		must(err)
		request.Header.Set("Authorization", token)
		answer, err := nethttp.DefaultClient.Do(request)
		must(err)
		if answer.StatusCode != nethttp.StatusOK {
			log.Fatal(answer.Status)
		}
		must(answer.Body.Close())
	}
}

func main() {
	overKafka(os.Args[1], os.Args[2])
	overHTTP(os.Args[3]+"/v1/events", "Bearer "+os.Getenv("ORDERBELL_TOKEN"))
}
