"""0001: the tables of projects, groups, people and what they say."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Json = sa.JSON(none_as_null=True)


def upgrade() -> None:
    _people()
    _groups()
    _asked()
    _leases()
    _judgments()
    _drafts_and_votes()


def _people() -> None:
    op.create_table(
        "audit",
        sa.Column("id", Id, nullable=False),
        sa.Column("person_id", sa.Integer(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("about", Json, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_action", "audit", ["action", "created_at"], unique=False)
    op.create_table(
        "person",
        sa.Column("id", Id, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("password", sa.Text(), nullable=True),
        sa.Column("admin", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("removed_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_person"),
        sa.UniqueConstraint("name", name="uq_person_name"),
    )
    op.create_table(
        "project",
        sa.Column("id", Id, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("per_group", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_project"),
        sa.UniqueConstraint("name", name="uq_project_name"),
    )
    op.create_table(
        "api_key",
        sa.Column("id", Id, nullable=False),
        sa.Column("person_id", Id, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("revoked_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_api_key_person_id"),
        sa.PrimaryKeyConstraint("id", name="pk_api_key"),
        sa.UniqueConstraint("digest", name="uq_api_key_digest"),
    )


def _groups() -> None:
    op.create_table(
        "groups",
        sa.Column("id", Id, nullable=False),
        sa.Column("project_id", Id, nullable=False),
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("prompt", Json, nullable=False),
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("meta", Json, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("split", sa.Text(), nullable=False),
        sa.Column("k", sa.Integer(), nullable=False),
        sa.Column("wanted", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Double(), nullable=False),
        sa.Column("gold", Json, nullable=True),
        sa.Column("disagreement", sa.Double(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("added_by", Id, nullable=True),
        sa.ForeignKeyConstraint(["added_by"], ["person.id"], name="fk_groups_added_by"),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name="fk_groups_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_groups"),
        sa.UniqueConstraint("project_id", "digest", name="uq_groups_project_id_digest"),
    )
    op.create_index(
        "ix_groups_queue",
        "groups",
        ["project_id", "priority", "id"],
        unique=False,
        sqlite_where=sa.text("wanted > 0"),
        postgresql_where=sa.text("wanted > 0"),
    )


def _asked() -> None:
    op.create_table(
        "member",
        sa.Column("project_id", Id, nullable=False),
        sa.Column("person_id", Id, nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_member_person_id"),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name="fk_member_project_id"),
        sa.PrimaryKeyConstraint("project_id", "person_id", name="pk_member"),
    )
    op.create_table(
        "question",
        sa.Column("id", Id, nullable=False),
        sa.Column("project_id", Id, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("spec", Json, nullable=False),
        sa.Column("guidelines", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name="fk_question_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_question"),
        sa.UniqueConstraint("project_id", "version", name="uq_question_project_id_version"),
    )
    op.create_table(
        "comment",
        sa.Column("id", Id, nullable=False),
        sa.Column("group_id", Id, nullable=False),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("person_id", Id, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name="fk_comment_group_id"),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_comment_person_id"),
        sa.PrimaryKeyConstraint("id", name="pk_comment"),
    )
    op.create_index("ix_comment_group", "comment", ["group_id"], unique=False)
    op.create_table(
        "completion",
        sa.Column("id", Id, nullable=False),
        sa.Column("group_id", Id, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("words", sa.Integer(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("rest", Json, nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name="fk_completion_group_id"),
        sa.PrimaryKeyConstraint("id", name="pk_completion"),
        sa.UniqueConstraint("group_id", "number", name="uq_completion_group_id_number"),
    )


def _leases() -> None:
    op.create_table(
        "lease",
        sa.Column("id", Id, nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("project_id", Id, nullable=False),
        sa.Column("group_id", Id, nullable=False),
        sa.Column("person_id", Id, nullable=False),
        sa.Column("question_id", Id, nullable=False),
        sa.Column("shown", Json, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name="fk_lease_group_id"),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_lease_person_id"),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name="fk_lease_project_id"),
        sa.ForeignKeyConstraint(["question_id"], ["question.id"], name="fk_lease_question_id"),
        sa.PrimaryKeyConstraint("id", name="pk_lease"),
        sa.UniqueConstraint("token", name="uq_lease_token"),
    )
    op.create_index(
        "ix_lease_open",
        "lease",
        ["project_id", "expires_at"],
        unique=False,
        sqlite_where=sa.text("state = 'open'"),
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_index("ix_lease_seen", "lease", ["person_id", "group_id"], unique=False)
    op.create_table(
        "tag",
        sa.Column("group_id", Id, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("person_id", Id, nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name="fk_tag_group_id"),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_tag_person_id"),
        sa.PrimaryKeyConstraint("group_id", "name", name="pk_tag"),
    )
    op.create_index("ix_tag_name", "tag", ["name"], unique=False)


def _judgments() -> None:
    op.create_table(
        "judgment",
        sa.Column("id", Id, nullable=False),
        sa.Column("project_id", Id, nullable=False),
        sa.Column("group_id", Id, nullable=False),
        sa.Column("person_id", Id, nullable=False),
        sa.Column("question_id", Id, nullable=False),
        sa.Column("lease_id", Id, nullable=True),
        sa.Column("idempotency", sa.Text(), nullable=True),
        sa.Column("supersedes", Id, nullable=True),
        sa.Column("holds", sa.Boolean(), nullable=False),
        sa.Column("judge", sa.Text(), nullable=False),
        sa.Column("scores", Json, nullable=True),
        sa.Column("scale", sa.Text(), nullable=False),
        sa.Column("answer", Json, nullable=False),
        sa.Column("rationale", sa.Text(), nullable=False),
        sa.Column("shown", Json, nullable=True),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name="fk_judgment_group_id"),
        sa.ForeignKeyConstraint(["lease_id"], ["lease.id"], name="fk_judgment_lease_id"),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_judgment_person_id"),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name="fk_judgment_project_id"),
        sa.ForeignKeyConstraint(["question_id"], ["question.id"], name="fk_judgment_question_id"),
        sa.ForeignKeyConstraint(["supersedes"], ["judgment.id"], name="fk_judgment_supersedes"),
        sa.PrimaryKeyConstraint("id", name="pk_judgment"),
        sa.UniqueConstraint("lease_id", "idempotency", name="uq_judgment_lease_id_idempotency"),
        sa.UniqueConstraint("supersedes", name="uq_judgment_supersedes"),
    )
    op.create_index("ix_judgment_group", "judgment", ["group_id"], unique=False)
    op.create_index(
        "ix_judgment_pace",
        "judgment",
        ["project_id", "id"],
        unique=False,
        sqlite_where=sa.text("seconds IS NOT NULL"),
        postgresql_where=sa.text("seconds IS NOT NULL"),
    )
    op.create_index("ix_judgment_person", "judgment", ["project_id", "person_id"], unique=False)


def _drafts_and_votes() -> None:
    op.create_table(
        "draft",
        sa.Column("lease_id", Id, nullable=False),
        sa.Column("answer", Json, nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["lease_id"], ["lease.id"], name="fk_draft_lease_id"),
        sa.PrimaryKeyConstraint("lease_id", name="pk_draft"),
    )
    op.create_table(
        "vote",
        sa.Column("group_id", Id, nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("person_id", Id, nullable=False),
        sa.Column("model_a", sa.Text(), nullable=False),
        sa.Column("model_b", sa.Text(), nullable=False),
        sa.Column("turns", Json, nullable=False),
        sa.Column("winner", sa.Text(), nullable=True),
        sa.Column("judgment_id", Id, nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name="fk_vote_group_id"),
        sa.ForeignKeyConstraint(["judgment_id"], ["judgment.id"], name="fk_vote_judgment_id"),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_vote_person_id"),
        sa.PrimaryKeyConstraint("group_id", name="pk_vote"),
        sa.UniqueConstraint("token", name="uq_vote_token"),
    )
