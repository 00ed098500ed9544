/**
 * The tables of a saga log, and of barriers, in PostgreSQL and MySQL: for
 * `schema` of the database, or a migration of your own. Safe to run again.
 * Names are not headrace_…, since transactions of the app write to them.
 */

export const postgresSagaSql = `
create table if not exists saga_run (
  id varchar(128) collate "C" primary key, name varchar(81) collate "C" not null, gid varchar(60) collate "C" not null,
  input text not null, status varchar(9) collate "C" not null, owner varchar(100) collate "C" not null,
  epoch bigint not null, records bigint not null, error text, started_at bigint not null, changed_at bigint not null
) with (fillfactor = 50);
create index if not exists saga_run_open on saga_run (status, owner, changed_at);
create table if not exists saga_record (id varchar(128) collate "C" not null, seq bigint not null, body text not null, primary key (id, seq));
create table if not exists saga_owner (owner varchar(100) collate "C" primary key, beats bigint not null);
`

export const mysqlSagaSql = `
create table if not exists saga_run (
  id varchar(128) character set ascii collate ascii_bin primary key, name varchar(81) character set ascii collate ascii_bin not null,
  gid varchar(60) character set ascii collate ascii_bin not null,
  input longtext character set utf8mb4 not null, status varchar(9) character set ascii collate ascii_bin not null,
  owner varchar(100) character set ascii collate ascii_bin not null, epoch bigint not null, records bigint not null,
  error longtext character set utf8mb4, started_at bigint not null, changed_at bigint not null,
  key saga_run_open (status, owner, changed_at)
) engine=InnoDB;
create table if not exists saga_record (
  id varchar(128) character set ascii collate ascii_bin not null, seq bigint not null, body longtext character set utf8mb4 not null, primary key (id, seq)
) engine=InnoDB;
create table if not exists saga_owner (owner varchar(100) character set ascii collate ascii_bin primary key, beats bigint not null) engine=InnoDB;
`
