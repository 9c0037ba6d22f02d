import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.springframework.context.annotation.AnnotationConfigApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.kafka.annotation.EnableKafka;
import org.springframework.kafka.annotation.KafkaListener;
import org.springframework.kafka.config.ConcurrentKafkaListenerContainerFactory;
import org.springframework.kafka.core.DefaultKafkaConsumerFactory;

/** A listener method of Spring Kafka as it comes: from the first message to the RECORDS-th, in milliseconds. */
@Configuration
@EnableKafka
public class Bench {
  static String[] arguments;
  static int total;
  int count = 0;
  long sum = 0;
  long first;

  public static void main(String[] given) {
    arguments = given;
    total = Integer.parseInt(given[3]);
    System.setProperty("topic", given[1]);
    System.setProperty("group", given[2]);
    new AnnotationConfigApplicationContext(Bench.class);
  }

  @Bean
  ConcurrentKafkaListenerContainerFactory<byte[], byte[]> kafkaListenerContainerFactory() {
    var factory = new ConcurrentKafkaListenerContainerFactory<byte[], byte[]>();
    factory.setConsumerFactory(new DefaultKafkaConsumerFactory<>(Map.of(
        "bootstrap.servers", arguments[0],
        "auto.offset.reset", "earliest",
        "key.deserializer", ByteArrayDeserializer.class,
        "value.deserializer", ByteArrayDeserializer.class)));
    return factory;
  }

  @KafkaListener(topics = "${topic}", groupId = "${group}")
  void gotData(ConsumerRecord<byte[], byte[]> message) {
    if (count++ == 0) first = System.nanoTime();
    sum += message.value().length;
    if (count == total) {
      System.out.println(total + " " + Math.max(1, (System.nanoTime() - first) / 1_000_000));
      Runtime.getRuntime().halt(0);
    }
  }
}
