// One function app on a Flex Consumption plan of its own, without a key.
param location string
param tags object
param name string
param roles string
param pythonVersion string
param instanceMemory int
param httpConcurrency int
param maximumInstances int
param alwaysReady int
param zoneRedundant bool
param identityId string
param identityClientId string
param packageContainer string
param blobEndpoint string
param queueEndpoint string
param tableEndpoint string
param serviceBusHost string
param insightsConnectionString string
param projectEndpoint string
param modelDeployment string
param foundryApi string
param eventsSessions bool
param vaultName string
param secretSettings array
param appSettings object

var secrets = toObject(secretSettings, item => item.name, item => '@Microsoft.KeyVault(VaultName=${vaultName};SecretName=${item.secret})')

resource plan 'Microsoft.Web/serverfarms@2025-03-01' = {
  name: 'plan-${name}'
  location: location
  tags: tags
  kind: 'functionapp'
  sku: {
    name: 'FC1'
    tier: 'FlexConsumption'
  }
  properties: {
    reserved: true
    zoneRedundant: zoneRedundant
  }
}

resource app 'Microsoft.Web/sites@2025-03-01' = {
  name: name
  location: location
  tags: tags
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identityId}': {}
    }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    keyVaultReferenceIdentity: identityId
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${blobEndpoint}${packageContainer}'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identityId
          }
        }
      }
      runtime: {
        name: 'python'
        version: pythonVersion
      }
      scaleAndConcurrency: {
        instanceMemoryMB: instanceMemory
        maximumInstanceCount: maximumInstances
        // Of a Python app the platform would send one request at a time to an instance; ours wait for models meanwhile.
        triggers: {
          http: {
            perInstanceConcurrency: httpConcurrency
          }
        }
        alwaysReady: alwaysReady == 0 ? [] : [{ name: 'http', instanceCount: alwaysReady }]
      }
    }
    siteConfig: {
      alwaysOn: false
    }
  }
}

resource settings 'Microsoft.Web/sites/config@2025-03-01' = {
  parent: app
  name: 'appsettings'
  properties: union(secrets, {
    AzureWebJobsStorage__credential: 'managedidentity'
    AzureWebJobsStorage__clientId: identityClientId
    AzureWebJobsStorage__blobServiceUri: blobEndpoint
    AzureWebJobsStorage__queueServiceUri: queueEndpoint
    AzureWebJobsStorage__tableServiceUri: tableEndpoint
    APPLICATIONINSIGHTS_CONNECTION_STRING: insightsConnectionString
    APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identityClientId};Authorization=AAD'
    PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY: 'true'
    OTEL_PYTHON_DISABLED_INSTRUMENTATIONS: 'azure_sdk'
    AZURE_CLIENT_ID: identityClientId
    AOS_ROLES: roles
    AOS_KEY_VAULT_URL: 'https://${vaultName}${environment().suffixes.keyvaultDns}'
    AOS_EVENTS_SESSIONS: string(eventsSessions)
    USE_FOUNDRY_RUNTIME: 'true'
    FOUNDRY_API: foundryApi
    AZURE_AI_PROJECT_ENDPOINT: projectEndpoint
    AZURE_AI_MODEL_DEPLOYMENT: modelDeployment
    AZURE_STORAGE_CONNECTION_STRING__blobServiceUri: blobEndpoint
    AZURE_STORAGE_CONNECTION_STRING__tableServiceUri: tableEndpoint
    AZURE_STORAGE_CONNECTION_STRING__queueServiceUri: queueEndpoint
    AZURE_STORAGE_CONNECTION_STRING__credential: 'managedidentity'
    AZURE_STORAGE_CONNECTION_STRING__clientId: identityClientId
    AZURE_SERVICE_BUS_CONNECTION_STRING__fullyQualifiedNamespace: serviceBusHost
    AZURE_SERVICE_BUS_CONNECTION_STRING__credential: 'managedidentity'
    AZURE_SERVICE_BUS_CONNECTION_STRING__clientId: identityClientId
    AGENT_CONFIG_BLOB_CONTAINER: 'agent-configs'
    MCP_REGISTRY_BLOB_CONTAINER: 'mcp-registry'
  }, appSettings)
}
