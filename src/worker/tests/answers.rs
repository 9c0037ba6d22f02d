//! Answers to waits.

use super::*;

const CALLS: u64 = 20;

#[test]
fn many_answers_at_once_do_not_hold_a_new_message_up() {
    let handler = "local tide = require 'tide'\n\
                   return function(message)\n\
                     if message.value == 'new' then return end\n\
                     tide.sleep('1h')\n\
                     local began = os.clock()\n\
                     while os.clock() - began < 0.002 do end\n\
                   end";
    let app = App::with_clock(Clock::System);
    let clock = Virtual::at_ms(NOON_MS);
    let mut fixture = Fixture::of("ordering = 'none'", handler, clock, app);
    fixture.send(&["waits"; CALLS as usize]);
    while fixture.worker.calls.len() < CALLS as usize {
        fixture.turn();
    }
    let epoch = fixture.partition.epoch;
    for lane in 0..CALLS {
        let (vm, call) = fixture.worker.calls.of_lane(epoch, lane).unwrap();
        let wait = fixture.worker.calls.get(vm, call).unwrap().waits[0].0;
        let answer = Answer::Slept;
        fixture.letters.push(ToWorker::Answer {
            vm,
            call,
            wait,
            answer,
        });
    }
    fixture.send(&["new"]);
    while !fixture.finished.contains(&CALLS) {
        fixture.turn();
    }
    assert!(fixture.worker.calls.len() > 10, "most answers come later");
    while fixture.finished.len() as u64 <= CALLS {
        fixture.turn();
    }
}
