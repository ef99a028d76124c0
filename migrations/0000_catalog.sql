CREATE TABLE `chunk` (
	`generation` integer PRIMARY KEY NOT NULL,
	`namespace_id` integer NOT NULL,
	`key` text NOT NULL,
	`size_bytes` integer NOT NULL,
	`checksum` text NOT NULL,
	`created_at_ms` integer NOT NULL,
	`last_used_at_ms` integer NOT NULL,
	`hit_count` integer NOT NULL,
	`parent_generation` integer,
	`token_count` integer,
	`redis_metadata` blob,
	FOREIGN KEY (`namespace_id`) REFERENCES `namespace`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `chunk_parent` ON `chunk` (`parent_generation`);--> statement-breakpoint
CREATE TABLE `invalidation` (
	`id` text PRIMARY KEY NOT NULL,
	`at_ms` integer NOT NULL,
	`generation` integer NOT NULL,
	`selector` text NOT NULL,
	`reason` text NOT NULL,
	`actor` text NOT NULL,
	`matched_chunks` integer NOT NULL,
	`removed_bytes` integer NOT NULL
);
--> statement-breakpoint
CREATE INDEX `invalidation_order` ON `invalidation` (`generation`,`id`);--> statement-breakpoint
CREATE TABLE `meta` (
	`name` text PRIMARY KEY NOT NULL,
	`value` text NOT NULL
);
--> statement-breakpoint
CREATE TABLE `namespace` (
	`id` integer PRIMARY KEY NOT NULL,
	`label` text NOT NULL,
	`grammar` text NOT NULL,
	`tenant` text NOT NULL,
	`model` text NOT NULL,
	`rank` text NOT NULL,
	`object_group` text NOT NULL,
	`dtype` text NOT NULL,
	`layer` text NOT NULL,
	`tags` text NOT NULL,
	`key_prefix` text NOT NULL,
	`key_tail` text NOT NULL,
	FOREIGN KEY (`tenant`) REFERENCES `tenant`(`name`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE UNIQUE INDEX `namespace_identity` ON `namespace` (`grammar`,`tenant`,`key_prefix`,`key_tail`);--> statement-breakpoint
CREATE TABLE `replica` (
	`generation` integer NOT NULL,
	`tier` text NOT NULL,
	`folder` text NOT NULL,
	`dirty` integer NOT NULL,
	PRIMARY KEY(`generation`, `tier`, `folder`),
	FOREIGN KEY (`generation`) REFERENCES `chunk`(`generation`) ON UPDATE no action ON DELETE cascade
) WITHOUT ROWID;
--> statement-breakpoint
CREATE TABLE `tenant` (
	`name` text PRIMARY KEY NOT NULL,
	`first_seen_at_ms` integer NOT NULL
);
