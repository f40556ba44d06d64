# A cache tier by Varnish 7, which README.md describes.
vcl 4.1;
import directors;

backend sales { .host = "sales"; .port = "8080"; .connect_timeout = 2s; .first_byte_timeout = 60s; .between_bytes_timeout = 60s; }
backend sales_2 { .host = "sales-2"; .port = "8080"; .connect_timeout = 2s; .first_byte_timeout = 60s; .between_bytes_timeout = 60s; }

sub vcl_init {
	new sources = directors.round_robin();
	sources.add_backend(sales);
	sources.add_backend(sales_2);
}

sub vcl_recv {
	set req.backend_hint = sources.backend();
	if (req.restarts == 0) {
		set req.grace = 0s; # what is out of date goes out only if the source fails: see vcl_deliver
	}
	# Only open feeds that cannot erase: the answers of others are never kept, and readers that wait would wait for one
	# another. What is of one client is kept for nobody. An event stream has no end, so nobody waits for it.
	if ((req.method != "GET" && req.method != "HEAD")
		|| req.url !~ "^/feeds/orders(\.[a-z]+)?(\?|$)"
		|| req.http.Authorization || req.http.Cookie
		|| req.http.Accept ~ "(?i)text/event-stream") {
		return (pass);
	}
	return (hash);
}

# All on which an answer depends, and for how long it may be held. Varnish chooses the coding.
sub vcl_hash {
	hash_data(req.url);
	hash_data(req.http.Prefer);
	hash_data(req.http.Accept);
	return (lookup);
}

sub vcl_backend_response {
	set beresp.grace = 0s;
	set beresp.keep = 0s;
	if (beresp.status >= 500) {
		call failed;
	} elseif (beresp.ttl <= 0s || beresp.http.Cache-Control ~ "(?i)private|no-cache|no-store") {
		set beresp.ttl = 1s;
		set beresp.uncacheable = true; # for so long, requests do not wait for one another
	} elseif (beresp.http.Cache-Control ~ "(?i)stale-if-error") {
		set beresp.grace = 24h;
	}
	return (deliver);
}

sub vcl_backend_error {
	if (bereq.retries == 0 && bereq.method == "GET") {
		return (retry); # at the other source
	}
	set beresp.grace = 0s;
	call failed;
	return (deliver);
}

# The failure of one request of a replay is the failure of all that waited for it. Other pages may be stale instead.
sub failed {
	set beresp.ttl = 0s;
	if (bereq.url ~ "[?&]after=") {
		set beresp.ttl = 1s;
	}
}

sub vcl_deliver {
	if (resp.status >= 500 && req.restarts == 0 && !obj.uncacheable) {
		set req.grace = 24h;
		return (restart);
	}
}
