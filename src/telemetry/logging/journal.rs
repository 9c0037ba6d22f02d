//! Lines for journald: every field as a field of its own, and all of them in the message too.
//!
//! `journalctl` shows the message alone, and ours are constant sentences: without the values, "a message failed" would
//! not say which. Hence this layer writes them behind the sentence before `tracing-journald` sends the event.

use std::fmt::{self, Write};

use tracing::field::{Field, Value, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// As many fields as an event can have.
const FIELDS_MAX: usize = 32;

pub(super) struct Journal(pub(super) tracing_journald::Layer);

impl<S> Layer<S> for Journal
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut values = Values::default();
        event.record(&mut values);
        let Some(message) = event.fields().find(is_message) else {
            return self.0.on_event(event, context);
        };
        let text = values.message();
        let mut set: [(&Field, Option<&dyn Value>); FIELDS_MAX] = [(&message, None); FIELDS_MAX];
        set[0].1 = Some(&text);
        for (place, (field, value)) in set[1..].iter_mut().zip(&values.others) {
            *place = (field, Some(value));
        }
        let set = event.metadata().fields().value_set(&set);
        self.0
            .on_event(&Event::new(event.metadata(), &set), context);
    }
}

fn is_message(field: &Field) -> bool {
    field.name() == "message"
}

/// The values of one event, as text.
#[derive(Default)]
struct Values {
    message: String,
    others: Vec<(Field, String)>,
}

impl Values {
    fn message(&self) -> String {
        let mut text = self.message.clone();
        // Lines of the `log` crate bring their origin as `log.*`; it is the target already.
        for (field, value) in self
            .others
            .iter()
            .filter(|(field, _)| !field.name().starts_with("log."))
        {
            let written = write!(text, " {}={value}", field.name());
            debug_assert!(written.is_ok(), "writing to a string cannot fail");
        }
        text
    }

    fn add(&mut self, field: &Field, value: String) {
        if is_message(field) {
            self.message = value;
        } else {
            self.others.push((field.clone(), value));
        }
    }
}

impl Visit for Values {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use crate::log::log;

    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Messages(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Messages {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut values = Values::default();
            event.record(&mut values);
            self.0.lock().unwrap().push(values.message());
        }
    }

    #[test]
    fn the_message_tells_its_fields() {
        let messages = Messages::default();
        let subscriber = tracing_subscriber::registry().with(messages.clone());
        tracing::subscriber::with_default(subscriber, || {
            log!(warn, log, topic = "orders", partition = 3, error = %"no such thing", "a message failed");
            log!(info, log, "ready");
        });
        let expected = [
            "a message failed topic=orders partition=3 error=no such thing",
            "ready",
        ];
        assert_eq!(*messages.0.lock().unwrap(), expected);
    }
}
