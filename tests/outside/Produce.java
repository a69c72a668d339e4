import static java.nio.charset.StandardCharsets.UTF_8;

import io.cloudevents.CloudEvent;
import io.cloudevents.core.builder.CloudEventBuilder;
import io.cloudevents.core.message.Encoding;
import io.cloudevents.http.HttpMessageFactory;
import io.cloudevents.jackson.JsonFormat;
import io.cloudevents.kafka.CloudEventSerializer;
import java.io.IOException;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.net.HttpURLConnection;
import java.net.URI;
import java.time.OffsetDateTime;
import java.util.HashMap;
import java.util.Map;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Produces paid orders with CloudEvents' SDK for Java: over Kafka by Kafka's own client, over HTTP by the standard library.
 *
 * <p>{@code ORDERBELL_TOKEN=... java -cp 'JARS/*' Produce.java BOOTSTRAP TOPIC SERVER}
 *
 * <p>Each event is sent twice, as a producer sends it that got no answer. The order is the event's subject.
 */
public class Produce {
    private static CloudEvent paid(String order) {
        return CloudEventBuilder.v1().withType("order.paid").withSource(URI.create("/shop/java")).withId("event-" + order)
            .withSubject(order).withTime(OffsetDateTime.now()).withExtension("partitionkey", order)
            .withData("application/json", "{\"store\":\"17\",\"amount\":1250,\"currency\":\"CNY\"}".getBytes(UTF_8)).build();
    }

    private static void overKafka(String bootstrap, String topic, Encoding encoding) throws Exception {
        Map<String, Object> config = new HashMap<>();
        config.put("bootstrap.servers", bootstrap);
        config.put("key.serializer", StringSerializer.class);
        config.put("value.serializer", CloudEventSerializer.class);
        config.put(CloudEventSerializer.ENCODING_CONFIG, encoding);
        config.put(CloudEventSerializer.EVENT_FORMAT_CONFIG, JsonFormat.CONTENT_TYPE);
        String order = "kafka-" + encoding.name().toLowerCase() + "-1";
        CloudEvent event = paid(order);
        try (KafkaProducer<String, CloudEvent> producer = new KafkaProducer<>(config)) {
            for (int time = 0; time < 2; time++) {
                producer.send(new ProducerRecord<>(topic, order, event)).get();
            }
        }
    }

    private static void overHttp(String server, Encoding encoding) throws IOException {
        CloudEvent event = paid("http-" + encoding.name().toLowerCase() + "-1");
        for (int time = 0; time < 2; time++) {
            HttpURLConnection connection = (HttpURLConnection) URI.create(server + "/v1/events").toURL().openConnection();
            connection.setRequestMethod("POST");
            connection.setDoOutput(true);
            connection.setRequestProperty("Authorization", "Bearer " + System.getenv("ORDERBELL_TOKEN"));
            var writer = HttpMessageFactory.createWriter(connection::setRequestProperty, body -> {
                try (OutputStream out = connection.getOutputStream()) {
                    out.write(body);
                } catch (IOException error) {
                    throw new UncheckedIOException(error);
                }
            });
            if (encoding == Encoding.BINARY) {
                writer.writeBinary(event);
            } else {
                writer.writeStructured(event, JsonFormat.CONTENT_TYPE);
            }
            if (connection.getResponseCode() != 200) {
                throw new IOException("the answer is " + connection.getResponseCode());
            }
        }
    }

    public static void main(String[] args) throws Exception {
        for (Encoding encoding : new Encoding[] {Encoding.BINARY, Encoding.STRUCTURED}) {
            overKafka(args[0], args[1], encoding);
            overHttp(args[2], encoding);
        }
    }
}
