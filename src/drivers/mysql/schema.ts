/**
 * Headrace's tables in MySQL and MariaDB. All are InnoDB, whatever the default
 * of the server, since a marker that is not in the transaction proves nothing.
 */

/** Goes up with every change of the tables; `migration` brings older ones up. */
export const tablesVersion = 1

export const ownTables = ['headrace_meta', 'headrace_branch', 'headrace_decision', 'headrace_partition'] as const

export const schemaSql = `
create table if not exists headrace_meta (
  name varchar(32) character set ascii collate ascii_bin not null primary key,
  value varchar(64) character set ascii collate ascii_bin not null
) engine=InnoDB;

-- The markers: what became of a branch. Written in the branch itself, or by whoever settles it.
create table if not exists headrace_branch (
  gid varchar(60) character set ascii collate ascii_bin not null,
  participant varchar(32) character set ascii collate ascii_bin not null,
  ending varchar(9) character set ascii collate ascii_bin not null,
  -- The connection that wrote it, while it is not committed; 0: nobody's branch.
  session bigint unsigned not null,
  at timestamp(3) not null default current_timestamp(3),
  primary key (gid, participant)
) engine=InnoDB;

create table if not exists headrace_decision (
  gid varchar(60) character set ascii collate ascii_bin not null primary key,
  verdict varchar(6) character set ascii collate ascii_bin not null,
  participants text character set utf8mb4 not null,
  decided_at bigint not null
) engine=InnoDB;

-- The highest epoch that was seen of each partition.
create table if not exists headrace_partition (
  deployment varbinary(255) not null,
  \`partition\` int unsigned not null,
  epoch bigint unsigned not null,
  primary key (deployment, \`partition\`)
) engine=InnoDB;

insert into headrace_meta (name, value) values ('version', '${tablesVersion}')
  on duplicate key update value = if(cast(value as unsigned) < ${tablesVersion}, '${tablesVersion}', value);
`
