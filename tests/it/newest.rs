//! A short list of tests, run once more against the newest Apache Kafka.
//!
//! The list has one test of each exchange with a broker: groups of both protocols, starts, commits with metadata, dead
//! letters, retry topics, and topics that are created. The whole suite runs against it by the environment variable.

use std::process::Command;

use crate::support::kafka;

const TESTS: [&str; 10] = [
    "automatic::a_threshold_commits_by_count",
    "keys::only_messages_of_the_same_key_wait",
    "letters::a_dead_letter_is_the_message_byte_for_byte_and_says_where_it_was",
    "membership::a_static_member_comes_back_without_a_rebalance",
    "positions::a_new_group_starts_at_the_end_and_that_is_committed_at_once",
    "positions::a_topic_that_is_made_anew_is_read_from_its_beginning",
    "protocols::members_share_with_cooperative_sticky",
    "protocols::members_share_with_the_consumer_protocol",
    "retries::a_failing_message_waits_in_one_topic_after_the_other",
    "retries::retry_topics_are_created_and_found",
];

#[test]
fn the_newest_kafka_passes_a_short_list() {
    if kafka::said_if_absent(kafka::available().then_some(())).is_none()
        || kafka::version() == kafka::NEWEST
    {
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .arg("--exact")
        .args(TESTS)
        .env(kafka::VERSION, kafka::NEWEST)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains(&format!("{} passed; 0 failed", TESTS.len())),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
