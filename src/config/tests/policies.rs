//! What a listener's policies mean, and what is said of them.

use crate::config::tests::*;

fn listener(more: &str) -> Listener {
    loaded(&[BROKERS, GROUP, LISTENER, more].concat())
        .listeners
        .remove(0)
}

#[test]
fn without_a_word_a_message_keeps_its_partitions_order_and_is_never_given_up() {
    let found = listener("");
    assert_eq!(
        (found.ordering, found.null_keys, found.max_in_flight),
        (Ordering::Partition, NullKeys::Parallel, 1_000)
    );
    assert_eq!(
        (found.on_error, found.dead_letter, found.breaker),
        (OnError::Retry, None, None)
    );
    assert_eq!(found.limits.timeout, Duration::from_secs(300));
}

#[test]
fn a_timeout_below_the_default_of_blocking_shortens_it() {
    let limits = |more: &str| {
        let found = listener(more).limits;
        (found.blocking.as_millis(), found.timeout.as_millis())
    };
    assert_eq!(limits(""), (5_000, 300_000));
    assert_eq!(limits("limits = { timeout = '2s' }\n"), (2_000, 2_000));
    assert_eq!(limits("limits = { timeout = '1m' }\n"), (5_000, 60_000));
    assert_eq!(
        limits("limits = { blocking = '1s', timeout = '2s' }\n"),
        (1_000, 2_000)
    );
    let both = [
        BROKERS,
        GROUP,
        LISTENER,
        "limits = { blocking = '3s', timeout = '2s' }\n",
    ];
    assert!(try_load(&both.concat()).is_err());
}

#[test]
fn a_dead_letter_table_says_what_becomes_of_what_fails() {
    let expected = DeadLetter {
        topic: "{topic}.dead".into(),
        header_style: HeaderStyle::Moontide,
        create_topic: false,
        too_large: TooLarge::Block,
        refused: OnRefusal::Block,
        per_minute_max: 600,
    };
    let breaker = Breaker {
        ratio: 0.5,
        window: Duration::from_secs(30),
        runs_min: 20,
        pause: Duration::from_secs(30),
        probes: 3,
    };
    for more in ["deadLetter = {}\n", "onError = 'deadLetter'\n"] {
        let found = listener(more);
        assert_eq!(found.on_error, OnError::DeadLetter, "{more}");
        assert_eq!(found.retry.attempts, Some(5), "{more}");
        assert_eq!(found.dead_letter, Some(expected.clone()), "{more}");
        assert_eq!(found.breaker, Some(breaker), "{more}");
    }
    let more = "headerStyle = 'connect', allowAutoTopicCreation = true, tooLarge = 'dropValue', refused = 'skip', maxPerMinute = 7";
    assert_eq!(
        listener(&format!("deadLetter = {{ topic = 'd', {more} }}\n")).dead_letter,
        Some(DeadLetter {
            topic: "d".into(),
            header_style: HeaderStyle::Connect,
            create_topic: true,
            too_large: TooLarge::DropValue,
            refused: OnRefusal::Skip,
            per_minute_max: 7,
        })
    );
}

#[test]
fn with_another_policy_the_table_serves_the_handlers_own_word() {
    let found = listener("onError = 'skip'\ndeadLetter = {}\n");
    assert_eq!(
        (found.on_error, found.retry.attempts),
        (OnError::Skip, Some(1))
    );
    assert!(found.dead_letter.is_some() && found.breaker.is_none());
}

#[test]
fn a_breaker_is_on_where_it_is_written_and_off_where_it_is_refused() {
    assert_eq!(listener("deadLetter = {}\nbreaker = false\n").breaker, None);
    assert!(listener("breaker = true\n").breaker.is_some());
    let found = listener("breaker = { failureRatio = 1, pause = '1m' }\n").breaker;
    assert_eq!(
        found.map(|found| (found.ratio.to_bits(), found.pause, found.probes)),
        Some((1.0_f64.to_bits(), Duration::from_secs(60), 3))
    );
}

#[test]
fn a_rate_limit_is_a_number_of_runs_in_a_time() {
    let limit = |messages, seconds| {
        let per = Duration::from_secs(seconds);
        Some(RateLimit { messages, per })
    };
    assert_eq!(listener("").rate_limit, None);
    let found = listener("rateLimit = { messages = 100 }\n").rate_limit;
    assert_eq!(found, limit(100, 1));
    let found = listener("rateLimit = { messages = 5, per = '1m' }\n").rate_limit;
    assert_eq!(found, limit(5, 60));
    let defaults = "[listenerDefaults]\nrateLimit = { messages = 7, per = '2s' }\n";
    let inherited = |more: &str| {
        let text = [BROKERS, GROUP, defaults, LISTENER, more].concat();
        loaded(&text).listeners.remove(0).rate_limit
    };
    assert_eq!(inherited(""), limit(7, 2));
    assert_eq!(inherited("rateLimit = { messages = 1 }\n"), limit(1, 2));
    assert_eq!(inherited("rateLimit = false\n"), None);
}

#[test]
fn a_delay_of_nothing_is_none() {
    let minutes = |minutes: u64| Some(Duration::from_secs(60 * minutes));
    assert_eq!(listener("").delay, None);
    assert_eq!(listener("delay = '15m'\n").delay, minutes(15));
    assert_eq!(listener("delay = '30d'\n").delay, minutes(30 * 24 * 60));
    let defaults = "[listenerDefaults]\ndelay = '15m'\n";
    let inherited = [BROKERS, GROUP, defaults, LISTENER, "delay = 0\n"].concat();
    assert_eq!(loaded(&inherited).listeners[0].delay, None);
}

#[test]
fn the_placeholders_of_a_dead_letter_topic_are_replaced_once() {
    let dead_letter = DeadLetter {
        topic: "{listener}-{topic}.{group}.{topic}".into(),
        ..listener("deadLetter = {}\n").dead_letter.unwrap()
    };
    assert_eq!(dead_letter.topic_of("t", "g", "{topic}"), "{topic}-t.g.t");
}

#[test]
fn the_number_of_retry_topics_is_one_of_attempts() {
    let topics = "retry = { topics = ['5s', '1m'], allowAutoTopicCreation = true }\n";
    for (policy, attempts) in [
        ("deadLetter", Some(3)),
        ("skip", Some(3)),
        ("stop", Some(3)),
        ("retry", None),
    ] {
        let found = listener(&format!("onError = '{policy}'\n{topics}"));
        assert_eq!(found.retry.attempts, attempts, "{policy}");
        assert_eq!(found.retry.topics, [5, 60].map(Duration::from_secs));
        assert!(found.retry.create_topics);
    }
}

#[test]
fn what_gives_order_up_is_said() {
    let warnings = |more: &str| loaded(&[BROKERS, GROUP, LISTENER, more].concat()).warnings;
    assert_eq!(
        warnings("retry = { topics = ['5s'] }\n"),
        [
            "listener `orders.f`: with `retry.topics` messages lose their order: a failed message runs again after later \
             ones"
        ]
    );
    assert_eq!(
        warnings("ordering = 'none'\nrunConfig = { autoCommit = false }\n"),
        [
            "listener `orders.f`: with `ordering` \"none\" ctx.commitOffsets means its own message alone, not those before it"
        ]
    );
    assert!(warnings("ordering = 'none'\nretry = { topics = ['5s'] }\n").is_empty());
    assert!(warnings("ordering = 'key'\nrunConfig = { autoCommit = false }\n").is_empty());
}

#[test]
fn a_pattern_that_names_its_own_dead_letters_is_said() {
    let warnings = |topics: &str, dead: &str| {
        let listener = format!(
            "[[listeners]]\ntopics = {topics}\nhandler = 'orders.f'\ndeadLetter = {{ topic = '{dead}' }}\n"
        );
        loaded(&[BROKERS, GROUP, &listener].concat()).warnings
    };
    let said = "listener `orders.f`: its pattern `^.*\\.dead$` matches its dead-letter topic `{topic}.dead` too, so it \
                would get its own dead letters; use a narrower pattern, or another topic";
    assert_eq!(warnings("['^.*\\.dead$']", "{topic}.dead"), [said]);
    assert_eq!(warnings("['t', '^.*\\.dead$']", "{topic}.dead"), [said]);
    assert_eq!(warnings("['^trash$']", "trash").len(), 1);
    // These leave out what Moontide makes.
    assert!(warnings("['^t']", "{topic}.dead").is_empty());
    assert!(warnings("['t', '^t']", "{topic}.dead").is_empty());
    assert!(warnings("['^t']", "trash").is_empty());
}

#[test]
fn there_are_no_retry_topics_of_retry_topics() {
    let refused = |topic: &str| {
        let listener = format!(
            "[[listeners]]\ntopic = '{topic}'\nhandler = 'orders.f'\nretry = {{ topics = ['5s'] }}\n"
        );
        let errors = try_load(&[BROKERS, GROUP, &listener].concat()).err();
        errors.map(|errors| errors.to_string())
    };
    let said =
        "`retry.topics` makes retry topics of `t.other.retry.1m`, which is a retry topic itself";
    let found = refused("t.other.retry.1m").unwrap_or_default();
    assert!(found.contains(said), "{found}");
    let found = refused("^.*\\.retry\\..*").unwrap_or_default();
    assert!(found.contains("which Moontide itself consumes"), "{found}");
    assert_eq!(refused("^t.*"), None);
    assert_eq!(refused("t.retry"), None);
}

#[test]
fn dead_letters_that_go_round_are_said() {
    let warnings = |listeners: &[(&str, &str, &str)]| {
        let listener = |(name, topic, dead): &(&str, &str, &str)| {
            format!(
                "[[listeners]]\nname = '{name}'\ntopic = '{topic}'\nhandler = 'orders.f'\n\
                 deadLetter = {{ topic = '{dead}' }}\n"
            )
        };
        let listeners: String = listeners.iter().map(listener).collect();
        loaded(&[BROKERS, GROUP, &listeners].concat()).warnings
    };
    let said = "listeners `a` and `b`: their dead letters go round, from topic `t` to `u` and back, so that a message \
                that always fails never ends; name another `deadLetter.topic`";
    assert_eq!(warnings(&[("a", "t", "u"), ("b", "u", "t")]), [said]);
    assert_eq!(warnings(&[("a", "t", "u"), ("b", "^u$", "t")]), [said]);
    let three = [
        ("a", "t", "{topic}.dead"),
        ("b", "t.dead", "v"),
        ("c", "v", "t"),
    ];
    let said = warnings(&three);
    assert!(
        said.len() == 1 && said[0].contains("`t` to `t.dead` to `v` and back"),
        "{said:?}"
    );
    for apart in [
        [("a", "t", "u"), ("b", "u", "v")],
        [("a", "t", "trash"), ("b", "^tr.*", "t")],
        [("a", "t", "{topic}.dead"), ("b", "t.dead", "{topic}.dead")],
    ] {
        assert!(warnings(&apart).is_empty(), "{apart:?}");
    }
}

#[test]
fn what_a_listener_writes_of_its_own_ends_what_contradicts_it() {
    let defaults = "[listenerDefaults]\nordering = 'key'\nnullKeys = 'partition'\nonError = 'skip'\n\
                    retry = { attempts = 3 }\n";
    let more = "[[listeners]]\ntopic = 'u'\nhandler = 'orders.f'\nname = 'u'\n\
                ordering = 'none'\nretry = { topics = ['5s'] }\n";
    let config = loaded(&[BROKERS, GROUP, defaults, LISTENER, more].concat());
    assert_eq!(config.listeners[0].null_keys, NullKeys::Partition);
    assert_eq!(config.listeners[0].retry.attempts, Some(3));
    assert_eq!(config.listeners[1].ordering, Ordering::None);
    assert_eq!(config.listeners[1].retry.attempts, Some(2));
}

#[test]
fn a_server_is_there_only_where_it_listens() {
    let http = |more: &str| {
        let config = loaded(&[BROKERS, GROUP, LISTENER, more].concat());
        (config.http, config.warnings)
    };
    assert_eq!(http(""), (None, vec![]));
    assert_eq!(
        http("[http]\n"),
        (
            None,
            vec!["`[http]` has no `listen`: no server is started".to_owned()]
        )
    );
    let expected = Http {
        listen: ([127, 0, 0, 1], 0).into(),
        stall_after: Duration::from_secs(300),
    };
    assert_eq!(
        http("[http]\nlisten = '127.0.0.1:0'\n"),
        (Some(expected), vec![])
    );
}
