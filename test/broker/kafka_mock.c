/*
 * A Kafka for tests: librdkafka's own stand-in, as a server.   kafka-mock TOPIC PARTITIONS
 *
 * Prints its addresses; each line "PARTITION KEY BODY" of standard input is produced and printed
 * again once the broker has it; ends at the end of its input.
 */
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    char why[256] = "";
    char line[4096];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set(conf, "client.id", "mock", why, sizeof(why));
    rd_kafka_conf_set(conf, "log_level", "0", why, sizeof(why));
    rd_kafka_t *kafka = argc == 3 ? rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof(why)) : NULL;
    rd_kafka_mock_cluster_t *cluster = kafka != NULL ? rd_kafka_mock_cluster_new(kafka, 1) : NULL;
    if (cluster == NULL) {
        fprintf(stderr, "kafka-mock TOPIC PARTITIONS: %s\n", why);
        return 1;
    }
    rd_kafka_mock_topic_create(cluster, argv[1], (int)strtol(argv[2], NULL, 10), 1);
    const char *servers = rd_kafka_mock_cluster_bootstraps(cluster);
    printf("%s\n", servers);
    fflush(stdout);
    conf = rd_kafka_conf_new();
    rd_kafka_conf_set(conf, "bootstrap.servers", servers, why, sizeof(why));
    rd_kafka_t *producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof(why));
    while (producer != NULL && fgets(line, sizeof(line), stdin) != NULL) {
        int partition = 0;
        char key[128];
        char body[2048];
        if (sscanf(line, "%d %127s %2047[^\n]", &partition, key, body) != 3) {
            return 1;
        }
        rd_kafka_producev(producer, RD_KAFKA_V_TOPIC(argv[1]), RD_KAFKA_V_PARTITION(partition),
                          RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
                          RD_KAFKA_V_KEY(key, strlen(key)), RD_KAFKA_V_VALUE(body, strlen(body)),
                          RD_KAFKA_V_HEADER("trace", "t1", 2), RD_KAFKA_V_END);
        rd_kafka_flush(producer, 10000);
        printf("%s\n", body);
        fflush(stdout);
    }
    rd_kafka_destroy(producer);
    rd_kafka_mock_cluster_destroy(cluster);
    rd_kafka_destroy(kafka);
    return 0;
}
