-- +goose Up

-- Mails whose address has reached the limit, for their count. The reason is the Go constant overLimit.
create index mail_over_limit on mail (order_id) where state = 'pending' and reason = 'Its address has reached MAIL_LIMIT for this hour.';

-- +goose Down
drop index mail_over_limit;
