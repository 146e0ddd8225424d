//! What is asked about an image whose storage fails: the answer is right or an error.

use super::disks::{Lab, Subject, parse};
use super::{guarded, points};
use diskimg::storage::source::FileSource;
use diskimg::{Format, Image, Result, compare, map, measure};
use diskimg_testkit::faulty::{Fault, FaultySource, Trouble};
use std::sync::Arc;

/// Something that is asked about an image; the answer as text.
type Question = fn(&Subject, Image) -> Result<Answer>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Says(String),
    /// It is not as it should be.
    Complains,
}

fn says(what: impl std::fmt::Debug) -> Answer {
    Answer::Says(format!("{what:?}"))
}

const QUESTIONS: [(&str, Question); 6] = [
    ("info", |_, image| {
        let info = image.info(0)?;
        Ok(if info.notes.is_empty() { says(info) } else { Answer::Complains })
    }),
    ("check", |_, image| {
        let mut findings = 0;
        let report = image.check(&mut |_| findings += 1)?;
        Ok(if findings > 0 { Answer::Complains } else { says(report) })
    }),
    ("map", |subject, image| {
        let (mut entries, mut at) = (Vec::new(), 0);
        map(&image, 0..image.size(), &mut |entry| {
            assert_eq!(entry.start, at);
            at += entry.length;
            let bytes = &subject.bytes[entry.start as usize..at as usize];
            assert!(!entry.zero || bytes.iter().all(|&b| b == 0), "{entry:?}");
            entries.push(format!("{entry:?}"));
            Ok(())
        })?;
        assert_eq!(at, image.size());
        Ok(says(entries))
    }),
    ("measure", |_, image| Ok(says(measure(Format::Qcow2, &parse(""), &image)?))),
    ("compare", |subject, image| match compare(&image, &subject.open(), false, Some(2), None) {
        Ok(answer) => Ok(says(answer)),
        Err(error) => Err(error.error),
    }),
    ("read", |_, image| {
        let mut bytes = vec![0; image.size() as usize];
        image.read_at(&mut bytes, 0)?;
        Ok(says(bytes))
    }),
];

#[test]
fn an_answer_from_faulty_storage_is_right_or_an_error() {
    let lab = Lab::new();
    let (mut asked, mut wrong) = (0u64, Vec::new());
    for subject in &lab.subjects {
        for (name, question) in QUESTIONS {
            for fault in [Fault::Eio, Fault::Dies, Fault::Short, Fault::Shrinks] {
                let ask = {
                    let subject = subject.clone();
                    move |trouble: &Arc<Trouble>| {
                        let inner = Arc::new(FileSource::open(&subject.path).unwrap());
                        let trouble = Arc::clone(trouble);
                        let source = FaultySource { inner, trouble, lends: false };
                        question(&subject, subject.open_on(Arc::new(source))?)
                    }
                };
                let counter = Trouble::none(fault);
                let sound = ask(&counter).unwrap();
                assert_ne!(sound, Answer::Complains, "{name} of {}", subject.name);
                for at in points(counter.count(), asked) {
                    let what = format!("{name} of {}, {fault:?} at {at}", subject.name);
                    let trouble = Trouble::new(fault, at);
                    let (ask, shared) = (ask.clone(), Arc::clone(&trouble));
                    let answer = guarded(&what, move || ask(&shared));
                    asked += 1;
                    match answer {
                        Ok(Answer::Complains) | Err(_) => {}
                        Ok(answer) if answer == sound => {}
                        // The length is what it is now. A file that ends is taken for damage of a
                        // disc's tree, for which another one stands in.
                        Ok(_) if name == "info" && fault == Fault::Shrinks => {}
                        Ok(_)
                            if name == "info"
                                && fault == Fault::Short
                                && subject.format == Format::Iso => {}
                        // Where nobody tells of holes, all counts as data.
                        Ok(_)
                            if matches!(name, "map" | "measure")
                                && trouble.failed().iter().all(|(_, call)| *call != "read") => {}
                        Ok(answer) => {
                            let text = format!("{answer:?}").chars().take(150).collect::<String>();
                            wrong.push(format!("{what} ({:?}): {text}", trouble.failed().first()));
                        }
                    }
                }
            }
        }
    }
    println!("{asked} questions, {} wrong answers", wrong.len());
    assert!(
        wrong.is_empty(),
        "{} wrong, as\n{}",
        wrong.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
}
