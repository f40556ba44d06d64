-- +goose Up

-- The mails that wait as their address has had enough of them, for their count: the reason is that of the Go constant overLimit.
create index mail_over_limit on mail (order_id) where state = 'pending' and reason = 'Its address has got as many mails within the hour as MAIL_LIMIT allows.';

-- +goose Down
drop index mail_over_limit;
