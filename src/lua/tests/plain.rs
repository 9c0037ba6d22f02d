//! Functions that answer at once: digests, encodings, compression, addresses, identifiers, random numbers.

use crate::lua::tests::*;

#[test]
fn digests_are_those_of_their_standards() {
    passes(
        r#"
        local h = tide.hash
        assert(h.md5("abc") == "900150983cd24fb0d6963f7d28e17f72")
        assert(h.sha1("abc") == "a9993e364706816aba3e25717850c26c9cd0d89d")
        assert(h.sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        assert(h.sha384("abc") == "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7")
        assert(h.sha512("abc") == "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f")
        assert(h.sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        assert(h.sha256("\0\xff" .. ("a"):rep(100)) ~= h.sha256("\0\xff" .. ("a"):rep(101)))
        assert(tide.hex.encode(h.sha256("abc", { raw = true })) == h.sha256("abc"))
        assert(h.sha256("abc", nil) == h.sha256("abc", {}))
        assert(h.crc32("123456789") == 0xcbf43926 and h.crc32("") == 0)
        assert(h.murmur2("foobar") == -790332482)
        assert(h.xxh64("abc") == 0x44bc2cf5ad770999)
        "#,
    );
}

/// RFC 4231, and for the older digests RFC 2202.
#[test]
fn authentication_codes_are_those_of_their_standards() {
    passes(
        r#"
        local h = tide.hmac
        local key = ("\x0b"):rep(20)
        assert(h.sha256(key, "Hi There") == "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7")
        assert(h.sha384(key, "Hi There") == "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6")
        assert(h.sha512(key, "Hi There") == "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cdedaa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854")
        local text = "what do ya want for nothing?"
        assert(h.sha256("Jefe", text) == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
        assert(h.md5("Jefe", text) == "750c783e6ab0b503eaa86e310a5db738")
        assert(h.sha1("Jefe", text) == "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79")
        local long, text = ("\xaa"):rep(131), "Test Using Larger Than Block-Size Key - Hash Key First"
        assert(h.sha256(long, text) == "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54")
        assert(h.sha512(long, text) == "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f3526b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598")
        assert(h.sha256("", "") == "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad")
        assert(#h.sha512("k", "v", { raw = true }) == 64)
        assert(h.equals("abc", "abc") and h.equals("", ""))
        assert(not h.equals("abc", "abd") and not h.equals("abc", "ab") and not h.equals("", "a"))
        "#,
    );
}

#[test]
fn encodings_go_both_ways() {
    passes(
        r#"
        local all = {}
        for byte = 0, 255 do all[#all + 1] = string.char(byte) end
        all = table.concat(all)
        local b, x = tide.base64, tide.hex
        -- RFC 4648, section 10.
        local vectors = { [""] = "", f = "Zg==", fo = "Zm8=", foo = "Zm9v", foob = "Zm9vYg==", fooba = "Zm9vYmE=", foobar = "Zm9vYmFy" }
        for data, text in pairs(vectors) do
          assert(b.encode(data) == text and b.decode(text) == data, data)
          assert(b.decode(b.encode(data, { padding = false }), { padding = false }) == data)
          assert(b.decode(text, { url = true }) == data)
        end
        for _, options in ipairs{ {}, { url = true }, { padding = false }, { url = true, padding = true } } do
          assert(b.decode(b.encode(all, options), options) == all)
          assert(b.decode(b.encode(all, options), { lenient = true }) == all)
        end
        assert(b.encode("\xfb\xff") == "+/8=" and b.encode("\xfb\xff", { url = true }) == "-_8")
        assert(b.decode(" Zm9v\r\n YmE\t", { lenient = true }) == "fooba")
        assert(x.encode(all):sub(-4) == "feff" and x.decode(x.encode(all)) == all)
        assert(x.decode("FFfe00") == "\xff\xfe\0" and x.decode("") == "")
        "#,
    );
}

#[test]
fn compressed_bytes_come_back() {
    passes(
        r#"
        local z = tide.gzip
        local text = ("moontide "):rep(100000)
        for level = 0, 9 do
          local packed = z.compress(text, { level = level })
          assert(z.decompress(packed) == text)
          assert(level == 0 or #packed < 10000)
        end
        assert(z.decompress(z.compress("")) == "")
        -- Members one behind the other are one text.
        assert(z.decompress(z.compress("a") .. z.compress("b")) == "ab")
        local packed = z.compress(text)
        assert(z.decompress(packed, { maxBytes = #text }) == text)
        local ok, err = pcall(z.decompress, packed, { maxBytes = #text - 1 })
        assert(not ok and tide.error.is(err, "tooLarge"), err)
        for _, bad in ipairs{ "", "x", packed:sub(1, -2), packed .. "x", packed:sub(1, 100) .. "\0\0" .. packed:sub(103) } do
          local ok, err = pcall(z.decompress, bad)
          assert(not ok and tide.error.is(err, "invalid"), tostring(err))
        end
        "#,
    );
}

/// A bomb: a million bytes of zeros a kilobyte.
#[test]
fn what_is_decompressed_is_bounded_by_the_memory_of_the_vm() {
    let mut setup = handler(
        r#"
        local zeros = tide.gzip.compress(("\0"):rep(1 << 20))
        local bomb = zeros:rep(64)
        local ok, err = pcall(tide.gzip.decompress, bomb)
        assert(not ok and tide.error.is(err, "tooLarge"), tostring(err))
        local ok, err = pcall(tide.gzip.decompress, bomb, { maxBytes = 64 << 20 })
        assert(not ok and tostring(err):find("`maxBytes` is 67108864, not an integer from 1 to 8388608", 1, true), tostring(err))
        "#,
    );
    setup.memory = 8 << 20;
    assert!(matches!(setup.build().run(), Step::Done));
}

#[test]
fn addresses_have_their_parts() {
    passes(
        r#"
        local u = tide.url
        local parts = u.parse("https://User:p%40@Host.example:8443/a%20b?x=1#top")
        assert(parts.scheme == "https" and parts.user == "User" and parts.password == "p%40")
        assert(parts.host == "host.example" and parts.port == 8443 and parts.path == "/a%20b")
        assert(parts.query == "x=1" and parts.fragment == "top")
        assert(u.build(parts) == "https://User:p%40@host.example:8443/a%20b?x=1#top")
        parts = u.parse("/a")
        assert(parts.host == nil and parts.query == nil and parts.path == "/a")
        assert(u.build{ scheme = "http", host = "::1", port = 80, path = "/", query = { b = { 1, 2 }, a = "x y&" } }
          == "http://[::1]:80/?a=x%20y%26&b=1&b=2")
        assert(u.encode("a b/ü\0~") == "a%20b%2F%C3%BC%00~" and u.decode("a%20b%2f%C3%BC+") == "a b/ü+")
        assert(u.decode("a+b", { plus = true }) == "a b")
        assert(u.query{ a = true, n = 9007199254740993, s = "=" } == "a=true&n=9007199254740993&s=%3D")
        local fields = u.parseQuery("a=1&b=x+y&a=2&c&=e&&d=%26")
        assert(#fields.a == 2 and fields.a[2] == "2" and fields.b == "x y" and fields.c == "" and fields[""] == "e" and fields.d == "&")
        assert(next(u.parseQuery("")) == nil)
        "#,
    );
}

#[test]
fn identifiers_are_unique_and_in_order() {
    passes(
        r#"
        local id, seen = tide.uuid, {}
        local before = tide.now()
        local last = ""
        for _ = 1, 5000 do
          local four, seven = id.v4(), id.v7()
          assert(not seen[four] and not seen[seven])
          seen[four], seen[seven] = true, true
          assert(seven > last)
          last = seven
        end
        assert(id.v4():find("^%x+%-%x%x%x%x%-4%x%x%x%-[89ab]%x%x%x%-%x+$") and #last == 36)
        local parts = id.parse(last)
        assert(parts.version == 7 and #parts.bytes == 16)
        assert(parts.time >= before and parts.time <= tide.now() + 5)
        assert(id.v7(0x017f22e279b0):sub(1, 15) == "017f22e2-79b0-7")
        assert(id.v7(0):sub(1, 15) == "00000000-0000-7")
        assert(id.parse("919108F7-52D1-4320-9bac-f847db4148a8").version == 4)
        assert(id.parse("919108f7-52d1-4320-9bac-f847db4148a8").time == nil)
        assert(id.isValid(id.v4()) and not id.isValid("x") and not id.isValid(nil) and not id.isValid(print))
        "#,
    );
}

#[test]
fn random_numbers_are_in_their_range() {
    passes(
        r#"
        local r = tide.random
        assert(#r.bytes(0) == 0 and #r.bytes(33) == 33 and r.bytes(16) ~= r.bytes(16))
        local seen = {}
        for _ = 1, 2000 do
          local n = r.integer(-1, 1)
          seen[n] = (seen[n] or 0) + 1
          local f = r.number()
          assert(math.type(f) == "float" and f >= 0 and f < 1)
        end
        assert(seen[-1] > 500 and seen[0] > 500 and seen[1] > 500 and seen[-1] + seen[0] + seen[1] == 2000)
        assert(r.integer(7, 7) == 7 and math.type(r.integer(1.0, 1)) == "integer")
        local below = 0
        for _ = 1, 1000 do if r.integer(math.mininteger, math.maxinteger) < 0 then below = below + 1 end end
        assert(below > 350 and below < 650)
        local high = r.integer(math.maxinteger - 1, math.maxinteger)
        assert(high >= math.maxinteger - 1)
        "#,
    );
}

#[track_caller]
fn refuses(cases: &[(&str, &str, &str)]) {
    for (code, kind, expected) in cases {
        let body = format!(
            "local ok, err = pcall(function() return {code} end) assert(not ok, 'it passes') assert(tide.error.is(err, '{kind}'), tostring(err)) error(err)"
        );
        let message = fails(&body).message;
        assert!(message.starts_with("handlers/h.lua:2: "), "{message}");
        assert!(message.ends_with(expected), "{code}: {message}");
    }
}

#[test]
fn wrong_arguments_are_told() {
    refuses(&[
        (
            "tide.hash.sha256()",
            "invalid",
            "`tide.hash.sha256` takes `data` as a string, not no value",
        ),
        (
            "tide.hash.sha256(12)",
            "invalid",
            "`tide.hash.sha256` takes `data` as a string, not a number",
        ),
        (
            "tide.hash.sha256('x', 'raw')",
            "invalid",
            "`tide.hash.sha256` takes a table of options, not a string",
        ),
        (
            "tide.hash.sha256('x', { rwa = true })",
            "invalid",
            "`tide.hash.sha256` knows no option `rwa`, did you mean `raw`?",
        ),
        (
            "tide.hash.sha256('x', { raw = 1 })",
            "invalid",
            "`tide.hash.sha256`: `raw` is an integer, not a boolean",
        ),
        (
            "tide.hmac.sha1('key')",
            "invalid",
            "`tide.hmac.sha1` takes `data` as a string, not no value",
        ),
        (
            "tide.hex.decode('0g')",
            "invalid",
            "`tide.hex.decode`: no hexadecimal digit at byte 2",
        ),
        (
            "tide.hex.decode('abc')",
            "invalid",
            "`tide.hex.decode`: 3 digits, not an even number",
        ),
        (
            "tide.base64.decode('Zg')",
            "invalid",
            "`tide.base64.decode`: the padding is wrong; `{ padding = false }` reads text without it",
        ),
        (
            "tide.base64.decode('-_8=')",
            "invalid",
            "`tide.base64.decode`: no Base64 at byte 1: `-`; `{ url = true }` reads the alphabet of URLs",
        ),
        (
            "tide.base64.decode('Zm9v\\n')",
            "invalid",
            "`tide.base64.decode`: no Base64 at byte 5: `\\n`; `{ lenient = true }` passes over white space",
        ),
        (
            "tide.base64.decode('Z!==', { lenient = true })",
            "invalid",
            "`tide.base64.decode`: a character that is no Base64: `!`",
        ),
        (
            "tide.gzip.compress('x', { level = 10 })",
            "invalid",
            "`tide.gzip.compress`: `level` is 10, not an integer from 0 to 9",
        ),
    ]);
}

#[test]
fn wrong_addresses_and_numbers_are_told() {
    refuses(&[
        (
            "tide.url.decode('a%2')",
            "invalid",
            "`tide.url.decode`: no two hexadecimal digits behind the `%` at byte 2",
        ),
        (
            "tide.url.parseQuery('a=1&b=%x')",
            "invalid",
            "`tide.url.parseQuery`: no two hexadecimal digits behind the `%` at byte 7",
        ),
        (
            "tide.url.parse('http://a b')",
            "invalid",
            "`tide.url.parse`: the URL has ` ` at byte 9; `tide.url.encode` encodes it",
        ),
        (
            "tide.url.build{ host = 'a', path = 'x' }",
            "invalid",
            "`tide.url.build`: `host` cannot stand in a URL as it is; `tide.url.encode` encodes the characters that separate parts",
        ),
        (
            "tide.url.build{ path = '/a?b' }",
            "invalid",
            "`tide.url.build`: `path` cannot stand in a URL as it is; `tide.url.encode` encodes the characters that separate parts",
        ),
        (
            "tide.url.build{ port = 8 }",
            "invalid",
            "`tide.url.build`: `port` cannot stand in a URL as it is; it needs a `host`",
        ),
        (
            "tide.url.query{ a = { b = 1 } }",
            "invalid",
            "`tide.url.query`: `fields` has a table as `a`, not a string, a number, a boolean or a list of them",
        ),
        (
            "tide.uuid.parse('x')",
            "invalid",
            "`tide.uuid.parse`: `text` is not a UUID such as `0190163d-8694-739b-aea5-966c26f8ad91`",
        ),
        (
            "tide.uuid.v7(-1)",
            "invalid",
            "`tide.uuid.v7`: `ms` is -1, not from 0 to 281474976710655",
        ),
        (
            "tide.random.bytes(1 << 21)",
            "invalid",
            "`tide.random.bytes`: `count` is 2097152, not from 0 to 1048576",
        ),
        (
            "tide.random.integer(2, 1)",
            "invalid",
            "`tide.random.integer`: `lowest` is 2, above `highest`, which is 1",
        ),
        (
            "tide.random.integer(1, 1.5)",
            "invalid",
            "`tide.random.integer`: `highest` is 1.5, not an integer",
        ),
    ]);
}

/// The result is made outside of the VM, and then refused by the VM's limit.
#[test]
fn a_result_beyond_the_memory_of_the_vm_fails_the_call() {
    let mut setup = handler("return tide.hex.encode(('x'):rep(5 << 20))");
    setup.memory = 8 << 20;
    let message = failure(setup.build().run()).message;
    assert!(message.contains("not enough memory"), "{message}");
}
