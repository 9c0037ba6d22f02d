//! From the arguments of a function of `tide.http` to a request. Pure: plain data in, plain data out.
//!
//! An error is the part of a sentence behind the name of the function.

use super::super::form::{encoded, one_or_more};
use super::super::options::{Fields, integer, kind, timeout};
use crate::wait::Value;
use crate::wait::http::Request;

const REDIRECTS_MAX: i64 = 20;
const BODY_MAX: i64 = 1 << 30;
/// The options of every function.
const OPTIONS: [&str; 9] = [
    "headers",
    "query",
    "body",
    "json",
    "form",
    "timeout",
    "redirects",
    "maxBody",
    "certificate",
];

/// `tide.http.request(options)`.
pub(super) fn whole_request(arguments: Vec<Value>) -> Result<Request, String> {
    let options = arguments.into_iter().next().unwrap_or(Value::Nil);
    let names = [&["method", "url"], &OPTIONS[..]].concat();
    let mut fields = Fields::of(options, String::new(), "a table of options", &names)?;
    let method = match fields.take("method") {
        Value::Nil => "GET".to_owned(),
        Value::Bytes(text) => String::from_utf8_lossy(&text).to_ascii_uppercase(),
        other => return fields.error(format!("`method` is {}, not a string", kind(&other))),
    };
    let url = fields.take("url");
    request(method, url, fields)
}

/// `tide.http.get(url, options?)` and the like.
pub(super) fn of_method(method: &str, arguments: Vec<Value>) -> Result<Request, String> {
    let mut arguments = arguments.into_iter();
    let url = arguments.next().unwrap_or(Value::Nil);
    let options = match arguments.next().unwrap_or(Value::Nil) {
        Value::Nil => Value::Table(Vec::new()),
        options => options,
    };
    let what = "a URL and a table of options";
    let fields = Fields::of(options, String::new(), what, &OPTIONS)?;
    request(method.to_owned(), url, fields)
}

fn request(method: String, url: Value, mut fields: Fields) -> Result<Request, String> {
    let mut url = match url {
        Value::Bytes(text) => match String::from_utf8(text.into_vec()) {
            Ok(url) => url,
            Err(_) => return fields.error("`url` is not UTF-8"),
        },
        Value::Nil => return fields.error("`url` is missing"),
        other => return fields.error(format!("`url` is {}, not a string", kind(&other))),
    };
    let query = pairs(&mut fields, "query")?;
    add_query(&mut url, &query);
    let mut headers = headers(&mut fields)?;
    let body = body(&mut fields, &mut headers)?;
    Ok(Request {
        function: "",
        method,
        url,
        headers,
        body,
        timeout: timeout(&mut fields)?,
        redirects: integer(&mut fields, "redirects", 0, REDIRECTS_MAX)?.map(|number| number as u32),
        max_body: integer(&mut fields, "maxBody", 1, BODY_MAX)?.map(|number| number as usize),
        certificate: match fields.take("certificate") {
            Value::Nil => None,
            Value::Bytes(name) => Some(String::from_utf8_lossy(&name).into_owned()),
            other => {
                return fields.error(format!("`certificate` is {}, not a name", kind(&other)));
            }
        },
    })
}

/// Behind the query that the URL has, and before its fragment.
fn add_query(url: &mut String, query: &str) {
    if query.is_empty() {
        return;
    }
    let end = url.find('#').unwrap_or(url.len());
    let before = if url[..end].contains('?') { '&' } else { '?' };
    url.insert_str(end, &format!("{before}{query}"));
}

/// At most one of `body`, `json` and `form`. A header of the handler's own counts more than what they imply.
fn body(
    fields: &mut Fields,
    headers: &mut Vec<(String, Vec<u8>)>,
) -> Result<Option<Vec<u8>>, String> {
    let given: Vec<&str> = ["body", "json", "form"]
        .into_iter()
        .filter(|name| fields.has(name))
        .collect();
    if let [one, other, ..] = given[..] {
        return fields.error(format!(
            "`{one}` stands beside `{other}`; a request has one body"
        ));
    }
    let (body, media_type) = match given.first() {
        None => return Ok(None),
        Some(&"form") => {
            let form = pairs(fields, "form")?;
            (form.into_bytes(), "application/x-www-form-urlencoded")
        }
        // The text that the step before made of the value.
        Some(&"json") => match fields.take("json") {
            Value::Bytes(text) => (text.into_vec(), "application/json"),
            other => return fields.error(format!("`json` is {}", kind(&other))),
        },
        Some(_) => match fields.take("body") {
            Value::Bytes(bytes) => return Ok(Some(bytes.into_vec())),
            other => {
                return fields.error(format!(
                    "`body` is {}, not a string; `json` and `form` make a body of a table",
                    kind(&other)
                ));
            }
        },
    };
    if !headers.iter().any(|(name, _)| name == "content-type") {
        headers.push(("content-type".to_owned(), media_type.into()));
    }
    Ok(Some(body))
}

/// In the order of their names: a table has no order.
fn headers(fields: &mut Fields) -> Result<Vec<(String, Vec<u8>)>, String> {
    let pairs = match fields.take("headers") {
        Value::Nil => return Ok(Vec::new()),
        Value::Table(pairs) => pairs,
        other => {
            return fields.error(format!(
                "`headers` is {}, not a table such as {{ accept = \"text/plain\" }}",
                kind(&other)
            ));
        }
    };
    let mut headers = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        let Some(name) = name.text().map(str::to_ascii_lowercase) else {
            return fields.error(format!(
                "`headers` has {} as a name, not a string",
                kind(&name)
            ));
        };
        for value in one_or_more(value) {
            match value {
                Value::Bytes(bytes) => headers.push((name.clone(), bytes.into_vec())),
                other => {
                    return fields.error(format!(
                        "header `{name}` is {}, not a string or a list of strings; `tostring` makes a string of a number",
                        kind(&other)
                    ));
                }
            }
        }
    }
    // The sort is stable, so the values of one name keep the order of their list.
    headers.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(headers)
}

/// The pairs of a table in the encoding of forms, in the order of their names.
fn pairs(fields: &mut Fields, field: &str) -> Result<String, String> {
    let pairs = match fields.take(field) {
        Value::Nil => return Ok(String::new()),
        Value::Table(pairs) => pairs,
        other => {
            return fields.error(format!(
                "`{field}` is {}, not a table such as {{ page = 2 }}",
                kind(&other)
            ));
        }
    };
    encoded(pairs).or_else(|reason| fields.error(format!("`{field}` has {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Bytes(text.as_bytes().into())
    }

    fn table(pairs: Vec<(&str, Value)>) -> Value {
        Value::Table(
            pairs
                .into_iter()
                .map(|(name, value)| (text(name), value))
                .collect(),
        )
    }

    fn read(options: Vec<(&str, Value)>) -> Result<Request, String> {
        of_method("POST", vec![text("http://a.example/x#y"), table(options)])
    }

    #[test]
    fn query_and_form_are_encoded_in_the_order_of_their_names() {
        let both = Value::Table(vec![
            (Value::Integer(1), Value::Integer(2)),
            (Value::Integer(2), Value::Boolean(true)),
        ]);
        let query = table(vec![("b", both), ("a ü", text("1&2"))]);
        let request = read(vec![("query", query.clone()), ("form", query)]).unwrap();
        let encoded = "a%20%C3%BC=1%262&b=2&b=true";
        assert_eq!(request.url, format!("http://a.example/x?{encoded}#y"));
        assert_eq!(request.body, Some(encoded.as_bytes().to_vec()));
        let media_type = request.header("content-type").unwrap();
        assert_eq!(media_type, b"application/x-www-form-urlencoded");
    }

    #[test]
    fn a_header_of_the_handler_counts_more_than_the_implied_one() {
        let headers = table(vec![
            ("Content-Type", text("application/vnd.x+json")),
            ("X", text("1")),
        ]);
        let request = read(vec![("json", text("{}")), ("headers", headers)]).unwrap();
        assert_eq!(
            request.header("content-type").unwrap(),
            b"application/vnd.x+json"
        );
        assert_eq!(request.headers.len(), 2);
    }

    #[test]
    fn wrong_options_are_told() {
        for (options, expected) in [
            (
                vec![("timeOut", Value::Integer(1))],
                "did you mean `timeout`?",
            ),
            (
                vec![("body", text("")), ("json", text("1"))],
                "stands beside",
            ),
            (
                vec![("body", table(vec![]))],
                "`body` is a table, not a string",
            ),
            (vec![("headers", text("x"))], "`headers` is a string"),
            (
                vec![("headers", table(vec![("x", Value::Integer(1))]))],
                "header `x` is an integer",
            ),
            (
                vec![("query", table(vec![("x", table(vec![("y", text("1"))]))]))],
                "`query` has a table as `x`",
            ),
            (
                vec![("redirects", Value::Integer(21))],
                "`redirects` is 21, not an integer from 0 to 20",
            ),
            (vec![("maxBody", Value::Integer(0))], "`maxBody` is 0"),
            (vec![("timeout", Value::Integer(0))], "`timeout` is 0"),
            (
                vec![("certificate", Value::Integer(1))],
                "`certificate` is an integer",
            ),
            (vec![("url", text("x"))], "knows no option `url`"),
        ] {
            let error = read(options).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let error = of_method("GET", vec![]).unwrap_err();
        assert_eq!(error, ": `url` is missing");
        let error = whole_request(vec![text("http://a.example")]).unwrap_err();
        assert_eq!(error, " takes a table of options, not a string");
    }
}
