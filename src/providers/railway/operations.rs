//! The GraphQL operations, checked against the schema when this is compiled.
//!
//! Invariants, which stand in the documents themselves and in no variable: an upsert deploys nothing and replaces nothing,
//! variables are read unrendered, what is staged is read without its values, and a commit deploys nothing.

/// The types of the schema.
#[allow(missing_docs, reason = "made by a macro")]
pub(super) mod schema {
    cynic::use_schema!("src/providers/railway/schema.graphql");
}

pub(super) use queries::*;

#[cynic::schema_for_derives(file = "src/providers/railway/schema.graphql", module = "schema")]
mod queries {
    use jiff::Timestamp;

    use super::super::scalars::{Config, Exposed, Received};
    use super::schema;

    #[derive(cynic::QueryFragment)]
    #[cynic(graphql_type = "Query")]
    pub struct TokenScope {
        pub project_token: ProjectToken,
    }

    #[derive(cynic::QueryFragment)]
    pub struct ProjectToken {
        pub project_id: String,
        pub environment_id: String,
    }

    #[derive(cynic::QueryVariables)]
    pub struct OfEnvironment<'a> {
        pub environment: &'a str,
    }

    #[derive(cynic::QueryFragment)]
    #[cynic(graphql_type = "Query", variables = "OfEnvironment")]
    pub struct EnvironmentProject {
        #[arguments(id: $environment)]
        pub environment: ProjectOfEnvironment,
    }

    #[derive(cynic::QueryFragment)]
    #[cynic(graphql_type = "Environment")]
    pub struct ProjectOfEnvironment {
        pub project_id: String,
    }

    #[derive(cynic::QueryVariables)]
    pub struct Pages<'a> {
        pub project: &'a str,
        pub environment: &'a str,
        #[cynic(skip_serializing_if = "Option::is_none")]
        pub variables_after: Option<&'a str>,
        #[cynic(skip_serializing_if = "Option::is_none")]
        pub services_after: Option<&'a str>,
    }

    #[derive(cynic::QueryFragment)]
    #[cynic(graphql_type = "Query", variables = "Pages")]
    pub struct EnvironmentState {
        #[arguments(id: $environment, projectId: $project)]
        pub environment: Environment,
    }

    #[derive(cynic::QueryFragment)]
    #[cynic(variables = "Pages")]
    pub struct Environment {
        pub name: String,
        #[arguments(first: 100, after: $variables_after)]
        pub variables: EnvironmentVariablesConnection,
        #[arguments(first: 100, after: $services_after)]
        pub service_instances: EnvironmentServiceInstancesConnection,
    }

    #[derive(cynic::QueryFragment)]
    pub struct EnvironmentVariablesConnection {
        pub edges: Vec<EnvironmentVariablesConnectionEdge>,
        pub page_info: PageInfo,
    }

    #[derive(cynic::QueryFragment)]
    pub struct EnvironmentVariablesConnectionEdge {
        pub node: Variable,
    }

    #[derive(cynic::QueryFragment)]
    pub struct Variable {
        pub name: String,
        pub service_id: Option<String>,
        pub is_sealed: bool,
        pub updated_at: Timestamp,
    }

    #[derive(cynic::QueryFragment)]
    pub struct EnvironmentServiceInstancesConnection {
        pub edges: Vec<EnvironmentServiceInstancesConnectionEdge>,
        pub page_info: PageInfo,
    }

    #[derive(cynic::QueryFragment)]
    pub struct EnvironmentServiceInstancesConnectionEdge {
        pub node: ServiceInstance,
    }

    #[derive(cynic::QueryFragment)]
    pub struct ServiceInstance {
        pub service_id: String,
        pub service_name: String,
        pub active_deployments: Vec<Deployment>,
        pub latest_deployment: Option<Deployment>,
    }

    #[derive(cynic::QueryFragment)]
    pub struct Deployment {
        pub id: cynic::Id,
        pub status: DeploymentStatus,
        pub created_at: Timestamp,
    }

    #[derive(cynic::QueryFragment)]
    pub struct PageInfo {
        pub has_next_page: bool,
        pub end_cursor: Option<String>,
    }

    #[derive(cynic::Enum, Clone, Copy)]
    pub enum DeploymentStatus {
        Building,
        Crashed,
        Deploying,
        Failed,
        Initializing,
        NeedsApproval,
        Queued,
        Removed,
        Removing,
        Skipped,
        Sleeping,
        Success,
        Waiting,
        #[cynic(fallback)]
        Unknown,
    }

    #[derive(cynic::QueryVariables)]
    pub struct Where<'a> {
        pub project: &'a str,
        pub environment: &'a str,
        #[cynic(skip_serializing_if = "Option::is_none")]
        pub service: Option<&'a str>,
    }

    #[derive(cynic::QueryFragment)]
    #[cynic(graphql_type = "Query", variables = "Where")]
    pub struct VariableValues {
        #[arguments(projectId: $project, environmentId: $environment, serviceId: $service, unrendered: true)]
        pub variables: Received,
    }

    #[derive(cynic::QueryVariables)]
    pub struct Written<'a> {
        pub project: &'a str,
        pub environment: &'a str,
        #[cynic(skip_serializing_if = "Option::is_none")]
        pub service: Option<&'a str>,
        pub variables: Exposed<'a>,
    }

    #[derive(cynic::QueryFragment)]
    #[cynic(graphql_type = "Mutation", variables = "Written")]
    pub struct VariableUpsert {
        #[arguments(input: {
            projectId: $project,
            environmentId: $environment,
            serviceId: $service,
            skipDeploys: true,
            variables: $variables
        })]
        pub variable_collection_upsert: bool,
    }

    #[derive(cynic::QueryVariables)]
    pub struct Deployed<'a> {
        pub environment: &'a str,
        pub service: &'a str,
    }

    #[derive(cynic::QueryFragment)]
    #[cynic(graphql_type = "Mutation", variables = "Deployed")]
    pub struct ServiceDeploy {
        #[arguments(environmentId: $environment, serviceId: $service)]
        #[cynic(rename = "serviceInstanceDeployV2")]
        pub deployment: String,
    }

    #[derive(cynic::QueryVariables)]
    pub struct OfDeployment<'a> {
        pub id: &'a str,
    }

    #[derive(cynic::QueryFragment)]
    #[cynic(graphql_type = "Query", variables = "OfDeployment")]
    pub struct DeploymentProgress {
        #[arguments(id: $id)]
        pub deployment: Progress,
    }

    #[derive(cynic::QueryFragment)]
    #[cynic(graphql_type = "Deployment")]
    pub struct Progress {
        pub status: DeploymentStatus,
    }

    #[derive(cynic::QueryFragment)]
    #[cynic(graphql_type = "Query", variables = "OfEnvironment")]
    pub struct StagedChanges {
        #[arguments(environmentId: $environment)]
        pub environment_staged_changes: EnvironmentPatch,
    }

    #[derive(cynic::QueryFragment)]
    pub struct EnvironmentPatch {
        pub status: EnvironmentPatchStatus,
        #[arguments(decryptVariables: false)]
        pub patch: Config,
    }

    #[derive(cynic::Enum, Clone, Copy, PartialEq, Eq)]
    pub enum EnvironmentPatchStatus {
        Applying,
        Committed,
        Staged,
        #[cynic(fallback)]
        Unknown,
    }

    #[derive(cynic::QueryVariables)]
    pub struct Staged<'a> {
        pub environment: &'a str,
        pub changes: &'a Config,
    }

    #[derive(cynic::QueryFragment)]
    #[cynic(graphql_type = "Mutation", variables = "Staged")]
    pub struct StageChanges {
        #[arguments(environmentId: $environment, input: $changes, merge: true)]
        pub environment_stage_changes: EnvironmentPatch,
    }

    #[derive(cynic::QueryVariables)]
    pub struct Committed<'a> {
        pub environment: &'a str,
        pub message: &'a str,
    }

    #[derive(cynic::QueryFragment)]
    #[cynic(graphql_type = "Mutation", variables = "Committed")]
    pub struct CommitStaged {
        #[arguments(environmentId: $environment, commitMessage: $message, skipDeploys: true)]
        #[cynic(rename = "environmentPatchCommitStaged")]
        pub workflow: String,
    }

    #[derive(cynic::QueryVariables)]
    pub struct OfWorkflow<'a> {
        pub id: &'a str,
    }

    #[derive(cynic::QueryFragment)]
    #[cynic(graphql_type = "Query", variables = "OfWorkflow")]
    pub struct Workflow {
        #[arguments(workflowId: $id)]
        pub workflow_status: WorkflowResult,
    }

    #[derive(cynic::QueryFragment)]
    pub struct WorkflowResult {
        pub status: WorkflowStatus,
        pub error: Option<String>,
    }

    #[derive(cynic::Enum, Clone, Copy)]
    #[cynic(rename_all = "None")]
    pub enum WorkflowStatus {
        Complete,
        Error,
        NotFound,
        Running,
        #[cynic(fallback)]
        Unknown,
    }
}
