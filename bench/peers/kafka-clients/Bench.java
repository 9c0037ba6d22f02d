import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.time.Duration;
import java.time.Instant;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * The plain loop of the Java client: from the first message to the RECORDS-th, in milliseconds. Commits are automatic. For
 * `emit` it sends each message to the topic of BENCH_OUT, and commits what is acknowledged.
 */
public class Bench {
  static final long[] latencies = new long[10_000_000];
  static int measured = 0;

  public static void main(String[] arguments) {
    int total = Integer.parseInt(arguments[3]);
    boolean latency = arguments[4].equals("latency");
    boolean emit = arguments[4].equals("emit");
    Map<String, Object> settings = Map.of(
        "enable.auto.commit", !emit,
        "bootstrap.servers", arguments[0],
        "group.id", arguments[2],
        "auto.offset.reset", "earliest",
        "max.poll.records", latency ? 500 : 10_000,
        "max.partition.fetch.bytes", 4 << 20,
        "key.deserializer", ByteArrayDeserializer.class,
        "value.deserializer", ByteArrayDeserializer.class);
    int count = 0;
    long sum = 0;
    long first = 0;
    KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(settings);
    consumer.subscribe(List.of(arguments[1]));
    if (emit) pipe(consumer, arguments[0], arguments[1], total);
    while (count < total) {
      for (ConsumerRecord<byte[], byte[]> message : consumer.poll(Duration.ofMillis(100))) {
        if (count++ == 0) first = System.nanoTime();
        sum += message.value().length;
        if (latency) arrived(message.value());
        if (count == total) break;
      }
    }
    System.out.println(total + " " + Math.max(1, (System.nanoTime() - first) / 1_000_000));
    if (measured > 0) {
      Arrays.sort(latencies, 0, measured);
      System.out.println("latency " + at(0.5) + " " + at(0.99) + " " + at(0.999) + " " + measured);
    }
    // A new group each time: leaving it in order is nothing to measure.
    Runtime.getRuntime().halt(0);
  }

  /** The callbacks of the one partition come in order. */
  static void pipe(KafkaConsumer<byte[], byte[]> consumer, String broker, String topic, int total) {
    Map<String, Object> settings = Map.of(
        "bootstrap.servers", broker,
        "acks", "all",
        "enable.idempotence", true,
        "linger.ms", 5,
        "batch.size", 256 << 10,
        "key.serializer", ByteArraySerializer.class,
        "value.serializer", ByteArraySerializer.class);
    KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(settings);
    String out = System.getenv("BENCH_OUT");
    AtomicLong acknowledged = new AtomicLong();
    AtomicLong position = new AtomicLong();
    TopicPartition partition = new TopicPartition(topic, 0);
    int sent = 0;
    long first = 0;
    long committedAt = System.nanoTime();
    while (acknowledged.get() < total) {
      for (ConsumerRecord<byte[], byte[]> message : consumer.poll(Duration.ofMillis(sent < total ? 100 : 1))) {
        if (sent == total) break;
        if (sent++ == 0) first = System.nanoTime();
        long behind = message.offset() + 1;
        producer.send(new ProducerRecord<>(out, message.key(), message.value()), (metadata, error) -> {
          if (error != null) {
            System.err.println("not acknowledged: " + error);
            Runtime.getRuntime().halt(1);
          }
          position.set(behind);
          acknowledged.incrementAndGet();
        });
      }
      if (position.get() > 0 && System.nanoTime() - committedAt >= 100_000_000) {
        consumer.commitAsync(Map.of(partition, new OffsetAndMetadata(position.get())), null);
        committedAt = System.nanoTime();
      }
    }
    System.out.println(sent + " " + Math.max(1, (System.nanoTime() - first) / 1_000_000));
    Runtime.getRuntime().halt(0);
  }

  static void arrived(byte[] value) {
    long sent = ByteBuffer.wrap(value).order(ByteOrder.LITTLE_ENDIAN).getLong();
    if (sent == 0) return;
    Instant now = Instant.now();
    latencies[measured++] = (now.getEpochSecond() * 1_000_000_000 + now.getNano() - sent) / 1000;
  }

  static long at(double share) {
    return latencies[Math.min(measured - 1, (int) (measured * share))];
  }
}
